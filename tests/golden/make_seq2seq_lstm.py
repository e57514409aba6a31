"""Writes `seq2seq_lstm.npz`: PyTorch's LSTM and GRU over packed sequences of different lengths, and their gradients.

    python tests/golden/make_seq2seq_lstm.py

It needs PyTorch, which the tests that read the file do not. Written with PyTorch 2.13.0 in float64.
"""

import pathlib

import numpy as np
import torch
from torch import nn

BATCH, TIME, FEATURES, HIDDEN = 5, 6, 3, 4
LENGTHS = 6, 1, 4, 2, 6
GATES = {"lstm": 4, "gru": 3}
DIRECTIONS = "forward", "reverse"


def inputs(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Padded sequences, initial states, weights in jaxai's layout and the cotangents of all outputs, float32."""
    given = {
        "x": rng.normal(size=(BATCH, TIME, FEATURES)),
        "h": rng.normal(size=(BATCH, HIDDEN)),
        "c": rng.normal(size=(BATCH, HIDDEN)),
        "outputs_cotangent": rng.normal(size=(BATCH, TIME, HIDDEN)),
        "h_cotangent": rng.normal(size=(BATCH, HIDDEN)),
        "c_cotangent": rng.normal(size=(BATCH, HIDDEN)),
    }
    for name, gates in GATES.items():
        given[f"{name}_input"] = rng.normal(size=(FEATURES, gates * HIDDEN))
        given[f"{name}_recurrent"] = rng.normal(size=(HIDDEN, gates * HIDDEN))
        given[f"{name}_bias"] = rng.normal(size=gates * HIDDEN)
        given[f"{name}_recurrent_bias"] = rng.normal(size=gates * HIDDEN)
    given["lstm_recurrent_bias"][:] = 0  # jaxai's LSTM has one bias
    return {name: value.astype(np.float32) for name, value in given.items()}


def evaluate(given: dict[str, np.ndarray], name: str, direction: str) -> dict[str, np.ndarray]:
    """Outputs, final states and the gradient of their product with the cotangents with respect to every input."""
    arrays = {key: torch.tensor(value, dtype=torch.float64) for key, value in given.items()}
    x, h, c = (arrays[key].requires_grad_() for key in ("x", "h", "c"))
    layer = {"lstm": nn.LSTM, "gru": nn.GRU}[name](FEATURES, HIDDEN, bidirectional=True, batch_first=True).double()
    ours = "_reverse" if direction == "reverse" else ""
    parameters = {
        "input": getattr(layer, f"weight_ih_l0{ours}"),
        "recurrent": getattr(layer, f"weight_hh_l0{ours}"),
        "bias": getattr(layer, f"bias_ih_l0{ours}"),
        "recurrent_bias": getattr(layer, f"bias_hh_l0{ours}"),
    }
    with torch.no_grad():
        for key, parameter in parameters.items():
            parameter.copy_(arrays[f"{name}_{key}"].T if parameter.ndim == 2 else arrays[f"{name}_{key}"])
    packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False)
    both = torch.stack((h, h)), torch.stack((c, c))
    outputs, state = layer(packed, both if name == "lstm" else both[0])
    outputs, _ = nn.utils.rnn.pad_packed_sequence(outputs, batch_first=True)
    index = DIRECTIONS.index(direction)
    results = {"outputs": outputs[..., index * HIDDEN : (index + 1) * HIDDEN]}
    results["h"] = (state[0] if name == "lstm" else state)[index]
    if name == "lstm":
        results["c"] = state[1][index]
    sum((value * arrays[f"{key}_cotangent"]).sum() for key, value in results.items()).backward()
    gradients = {"x": x.grad, "h": h.grad} | ({"c": c.grad} if name == "lstm" else {})
    gradients |= {key: parameter.grad.T for key, parameter in parameters.items() if parameter.ndim == 2}
    gradients |= {key: parameter.grad for key, parameter in parameters.items() if parameter.ndim == 1}
    named = {f"{name}_{direction}_{key}": value for key, value in results.items()}
    named |= {f"{name}_{direction}_gradient_{key}": value for key, value in gradients.items()}
    return {key: value.detach().numpy().astype(np.float32) for key, value in named.items()}


def main() -> None:
    given = inputs(np.random.default_rng(0))
    arrays = given | {"lengths": np.array(LENGTHS, np.int32)}
    for name in GATES:
        for direction in DIRECTIONS:
            arrays |= evaluate(given, name, direction)
    np.savez_compressed(pathlib.Path(__file__).with_name("seq2seq_lstm.npz"), **arrays)


if __name__ == "__main__":
    main()
