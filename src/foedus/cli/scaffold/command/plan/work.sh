#!/bin/sh
# Handwritten digits by softmax regression, in nothing but a shell and awk: work.sh init|train|evaluate IN OUT
set -eu
verb=$1 in=$2 out=$3

# The model is one tensor: for each of 10 digits 16 weights and a bias, as little-endian doubles. An image of 8 times 8
# pixels from 0 to 16 becomes 4 times 4 inputs, each the mean of four neighbours.
header='{"weights":{"dtype":"F64","shape":[10,17],"data_offsets":[0,1360]}}     '

begin_model() { # the length of the header in 8 bytes (72 is octal 110), and the header
    printf '\110\0\0\0\0\0\0\0%s' "$header" >"$out/model.safetensors"
}

option() {
    sed -n 's/.*"'"$1"'": *\([-+.0-9eE]*\).*/\1/p' "$in/options.json"
}

if [ "$verb" = init ]; then
    begin_model
    head -c 1360 /dev/zero >>"$out/model.safetensors"
    exit
fi

# The head of a model that somebody else wrote may be longer than ours: its length is in the first bytes.
start=$(od -An -t u8 -N 8 "$in/model.safetensors")
od -An -v -t f8 -w8 -j $((start + 8)) "$in/model.safetensors" >"$TMPDIR/weights"

awk -F, -v verb="$verb" -v lr="$(option lr)" -v epochs="$(option epochs)" -v out="$TMPDIR" '
    function chances(row,    k, j, top, sum) {
        top = -1e300
        for (k = 0; k < 10; k++) {
            p[k] = w[k, 16]
            for (j = 0; j < 16; j++) if (x[row, j]) p[k] += w[k, j] * x[row, j]
            if (p[k] > top) { top = p[k]; best = k }
        }
        for (k = 0; k < 10; k++) sum += p[k] = exp(p[k] - top)
        for (k = 0; k < 10; k++) p[k] /= sum
    }
    function learn(row,    k, j, slope) {
        for (k = 0; k < 10; k++) {
            slope = lr * (p[k] - (k == y[row]))
            for (j = 0; j < 16; j++) if (x[row, j]) w[k, j] -= slope * x[row, j]
            w[k, 16] -= slope
        }
    }
    function bytes(value,    e, high, low, i, text) {  # a double as eight bytes, for printf %b
        high = low = 0
        if (value < 0) { high = 2147483648; value = -value }
        if (value > 1e-300) {
            e = int(log(value) / log(2))
            while (2 ^ e > value) e--
            while (2 ^ (e + 1) <= value) e++
            value = (value / 2 ^ e - 1) * 1048576
            high += (e + 1023) * 1048576 + int(value)
            low = (value - int(value)) * 4294967296
        }
        for (i = 0; i < 4; i++) { text = text sprintf("\\0%o", low % 256); low = int(low / 256) }
        for (i = 0; i < 4; i++) { text = text sprintf("\\0%o", high % 256); high = int(high / 256) }
        return text
    }
    FILENAME ~ /weights$/ { w[int((FNR - 1) / 17), (FNR - 1) % 17] = $1 + 0; next }
    FNR == 1 { for (i = 1; i <= NF; i++) if ($i == "label") label = i; next }
    {
        y[rows + 0] = $label
        for (i = j = 0; i++ < NF;) if (i != label) { x[rows + 0, int(j / 16) * 4 + int(j % 8 / 2)] += $i / 64; j++ }
        rows++
    }
    END {
        for (epoch = 0; verb == "train" && epoch < epochs; epoch++)
            for (row = 0; row < rows; row++) { chances(row); learn(row) }
        for (row = 0; row < rows; row++) {
            chances(row)
            loss -= log(p[y[row] + 0] + 1e-300) / rows
            right += (best == y[row]) / rows
        }
        if (verb == "train") {
            for (k = 0; k < 10; k++) for (j = 0; j < 17; j++) printf "%s", bytes(w[k, j]) >(out "/bytes")
            printf "{\"loss\": %.17g}\n", loss
        } else printf "{\"loss\": %.17g, \"accuracy\": %.17g}\n", loss, right
    }
' "$TMPDIR/weights" "$in/data.csv" >"$out/result.json"

if [ "$verb" = train ]; then
    begin_model
    printf '%b' "$(cat "$TMPDIR/bytes")" >>"$out/model.safetensors"
fi
