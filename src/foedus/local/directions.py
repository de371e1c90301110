"""Whether more or less of a metric is better, for metrics that the field knows by name."""

from __future__ import annotations

from collections.abc import Mapping

MORE = (
    *("accuracy", "balanced_accuracy", "top1", "top3", "top5", "auc", "auroc", "roc_auc", "average_precision", "map"),
    *("precision", "recall", "sensitivity", "specificity", "f1", "f1_macro", "f1_micro", "fbeta", "mcc", "kappa"),
    *("dice", "iou", "jaccard", "miou", "r2", "psnr", "ssim", "bleu", "rouge", "c_index", "concordance"),
)
LESS = (
    *("loss", "cross_entropy", "nll", "log_loss", "perplexity", "bits_per_byte", "error", "error_rate", "mae", "mse"),
    *("rmse", "mape", "rmsle", "brier", "ece", "hinge", "kl", "wer", "cer", "fid", "hausdorff"),
)
KNOWN: Mapping[str, str] = {**dict.fromkeys(MORE, "max"), **dict.fromkeys(LESS, "min")}
"""``max`` or ``min`` by name; a plan's ``directions`` says it of others, or otherwise."""
