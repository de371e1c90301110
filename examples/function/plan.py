"""Handwritten digits with scikit-learn: a linear classifier that each client trains by passes of partial_fit."""

import numpy as np
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import log_loss

DIGITS = np.arange(10)

metrics = {"accuracy": "max"}


def initial(seed, options):
    """The arrays that everybody trains together, as a run begins."""
    return {"coef": np.zeros((10, 64)), "intercept": np.zeros(10)}


def fit(model, columns, call):
    """Train the classifier that these arrays are on a client's examples; give its new arrays and the loss on them."""
    images, labels = columns["image"].astype(float) / 16, columns["label"]
    classifier = _classifier(model, call.options, call.seed)
    for _ in range(call.options["passes"]):
        classifier.partial_fit(images, labels)
    new = {"coef": classifier.coef_, "intercept": classifier.intercept_}
    return {"model": new, "loss": log_loss(labels, classifier.predict_proba(images), labels=DIGITS)}


def evaluate(model, columns, options):
    """Loss and metrics of the classifier that these arrays are on examples that it has not seen."""
    images, labels = columns["image"].astype(float) / 16, columns["label"]
    chances = _classifier(model, options, 0).predict_proba(images)
    return {
        "loss": log_loss(labels, chances, labels=DIGITS),
        "accuracy": np.mean(chances.argmax(axis=1) == labels),
    }


def _classifier(model, options, seed):
    """A classifier with these arrays as what it has learned so far."""
    found = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=options["lr"], random_state=seed)
    found.partial_fit(np.zeros((10, 64)), DIGITS, classes=DIGITS)  # what it learns of this is replaced
    found.coef_, found.intercept_ = model["coef"], model["intercept"]
    return found
