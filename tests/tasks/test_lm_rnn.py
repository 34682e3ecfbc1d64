import jax
import numpy as np
import pytest

from tasks import LMRNN, load_text
from tasks.language import predictions


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def gru(h, c, x, u, width):
    z_x, r_x, n_x = np.split(x, 3)
    z_h, r_h, n_h = np.split(h @ u, 3)
    z, r = sigmoid(z_x + z_h), sigmoid(r_x + r_h)
    return z * h + (1.0 - z) * np.tanh(n_x + r * n_h), c


def lstm(h, c, x, u, width):
    i, f, n, o = np.split(x + h @ u, 4)
    c = sigmoid(f + 1.0) * c + sigmoid(i) * np.tanh(n)
    return sigmoid(o) * np.tanh(c), c


@pytest.mark.parametrize(("cell", "step"), [("gru", gru), ("lstm", lstm)])
def test_losses_are_those_of_the_written_equations(cell, step):
    family = LMRNN(load_text("kjv"), cell=cell, width=5, length=6, batch_size=2)
    spec = family.nominal()
    task = family.task(spec)
    params = jax.tree.map(lambda p: 3.0 * p, task.init(jax.random.key(0)))
    passages = task.batch(jax.random.key(1), "train")
    got, _ = predictions(family.model(spec), params, passages)

    embedding = np.asarray(params["embedding"], np.float64)
    body = jax.tree.map(np.asarray, params["body"])
    for passage, losses in zip(np.asarray(passages), got, strict=True):
        h, c = np.zeros(5), np.zeros(5)
        for t, loss in enumerate(np.asarray(losses)):
            x = 16.0 * embedding[passage[t]] @ body["input"]["kernel"]
            h, c = step(h, c, x + body["input"]["bias"], body["recurrent"], 5)
            logits = embedding @ h
            expected = np.log(np.sum(np.exp(logits))) - logits[passage[t + 1]]
            assert loss == pytest.approx(expected, rel=1e-5)
