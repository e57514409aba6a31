"""Writes `dqn_update.npz`: a network, three batches, and what PyTorch makes of them in three updates with Adam.

    python tests/golden/make_dqn_update.py

It needs PyTorch, which the tests that read the file do not. Written with PyTorch 2.13.0 in float64.
"""

import pathlib

import numpy as np
import torch

OBSERVATION, HIDDEN, ACTIONS, ATOMS = 4, 16, 3, 11
BATCH, UPDATES = 8, 3
LEARNING_RATE, EPSILON = 1e-2, 1e-5
SUPPORT = torch.linspace(-4, 4, ATOMS, dtype=torch.float64)
ALPHA, TEMPERATURE, MINIMUM = 0.9, 0.3, -1.0

CASES = {
    "huber": {"delta": 1.0},
    "squared_double": {"delta": 0.0, "double": True},
    "munchausen": {"delta": 1.0, "munchausen": True},
    "categorical": {"distribution": "categorical"},
    "categorical_double": {"distribution": "categorical", "double": True},
    "quantile": {"distribution": "quantile", "delta": 1.0},
    "munchausen_quantile": {"distribution": "quantile", "delta": 0.5, "munchausen": True},
}


class Network(torch.nn.Module):
    def __init__(self, atoms: int):
        super().__init__()
        self.first = torch.nn.Linear(OBSERVATION, HIDDEN)
        self.second = torch.nn.Linear(HIDDEN, HIDDEN)
        self.last = torch.nn.Linear(HIDDEN, ACTIONS * max(atoms, 1))
        self.atoms = atoms

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.second(torch.relu(self.first(observation))))
        y = self.last(x)
        return y.view(-1, ACTIONS, self.atoms) if self.atoms else y

    def arrays(self) -> dict[str, np.ndarray]:
        """Kernels [in, out], as flax has them."""
        names = {"first": "dense_0", "second": "q_hidden", "last": "q"}
        found = {}
        for name, parameter in self.named_parameters():
            layer, kind = name.split(".")
            key, value = ("kernel", parameter.T) if kind == "weight" else ("bias", parameter)
            found[f"{names[layer]}/{key}"] = value.detach().numpy().copy()
        return found


def loss_of(case: dict, network: Network, target: Network, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    kind, rows = case.get("distribution", "none"), torch.arange(BATCH)

    def mean(output: torch.Tensor) -> torch.Tensor:
        if kind == "categorical":
            return (output.softmax(-1) * SUPPORT).sum(-1)
        return output.mean(-1) if kind == "quantile" else output

    taken = network(batch["observation"])[rows, batch["action"]]
    with torch.no_grad():
        following = target(batch["next_observation"])
        reward, discount = batch["reward"], batch["discount"]
        if case.get("munchausen"):
            log_policy = TEMPERATURE * torch.log_softmax(mean(target(batch["observation"])) / TEMPERATURE, -1)
            reward = reward + ALPHA * log_policy[rows, batch["action"]].clamp(MINIMUM, 0)
            next_log_policy = torch.log_softmax(mean(following) / TEMPERATURE, -1)
            soft = following - TEMPERATURE * next_log_policy.reshape(BATCH, ACTIONS, *[1] * (following.ndim - 2))
            policy = next_log_policy.exp().reshape(BATCH, ACTIONS, *[1] * (following.ndim - 2))
            value = (policy * soft).sum(1)
        else:
            chooser = network if case.get("double") else target
            value = following[rows, mean(chooser(batch["next_observation"])).argmax(-1)]
    if kind == "none":
        goal = reward + discount * value
        if case["delta"]:
            each = torch.nn.functional.huber_loss(taken, goal, reduction="none", delta=case["delta"])
        else:
            each = 0.5 * (taken - goal) ** 2
    elif kind == "categorical":
        # Algorithm 1 of Bellemare et al. 2017, in loops.
        spacing = (SUPPORT[-1] - SUPPORT[0]) / (ATOMS - 1)
        goal = torch.zeros(BATCH, ATOMS, dtype=torch.float64)
        for i in range(BATCH):
            for atom, probability in zip(SUPPORT, value[i].softmax(-1), strict=True):
                shifted = (reward[i] + discount[i] * atom).clamp(SUPPORT[0], SUPPORT[-1])
                place = float((shifted - SUPPORT[0]) / spacing)
                below = min(int(place), ATOMS - 2)
                goal[i, below] += probability * (below + 1 - place)
                goal[i, below + 1] += probability * (place - below)
        each = -(goal * taken.log_softmax(-1)).sum(-1)
    else:
        goal = reward[:, None] + discount[:, None] * value
        tau = (torch.arange(ATOMS, dtype=torch.float64) + 0.5) / ATOMS
        predicted, goal = taken[:, :, None].expand(-1, -1, ATOMS), goal[:, None, :].expand(-1, ATOMS, -1)
        huber = torch.nn.functional.huber_loss(predicted, goal, reduction="none", delta=case["delta"])
        each = ((tau[None, :, None] - (goal < predicted).double()).abs() * huber).mean(2).sum(1)
    return (each * batch["weight"]).mean()


def batches(rng: np.random.Generator) -> list[dict[str, np.ndarray]]:
    return [
        {
            "observation": rng.normal(size=(BATCH, OBSERVATION)).astype(np.float32),
            "action": rng.integers(0, ACTIONS, BATCH).astype(np.int32),
            "reward": (2 * rng.normal(size=BATCH)).astype(np.float32),
            "discount": np.where(rng.random(BATCH) < 0.25, 0, 0.95).astype(np.float32),
            "next_observation": rng.normal(size=(BATCH, OBSERVATION)).astype(np.float32),
            "weight": rng.uniform(0.2, 1, BATCH).astype(np.float32),
        }
        for _ in range(UPDATES)
    ]


def main() -> None:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    given = batches(np.random.default_rng(0))
    results = {f"batch/{i}/{name}": value for i, batch in enumerate(given) for name, value in batch.items()}
    for name, case in CASES.items():
        atoms = ATOMS if "distribution" in case else 0
        network, target = Network(atoms), Network(atoms)
        for parameter in (*network.parameters(), *target.parameters()):
            # Values that float32 holds exactly, and outputs large enough for both sides of each loss.
            parameter.data = (1.5 * parameter.data).float().double()
        results |= {f"{name}/params/{key}": value.astype(np.float32) for key, value in network.arrays().items()}
        results |= {f"{name}/target/{key}": value.astype(np.float32) for key, value in target.arrays().items()}
        optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE, eps=EPSILON)
        losses = []
        for i, batch in enumerate(given):
            optimizer.zero_grad()
            tensors = {key: torch.as_tensor(value) for key, value in batch.items()}
            tensors = {key: value.double() if value.is_floating_point() else value for key, value in tensors.items()}
            loss = loss_of(case, network, target, tensors)
            loss.backward()
            losses.append(loss.item())
            if i == 0:
                norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 1e9).item()
                results[f"{name}/grad_norm"] = np.float32(norm)
            optimizer.step()
            if i in (0, UPDATES - 1):
                after = network.arrays().items()
                results |= {f"{name}/after_{i + 1}/{key}": value.astype(np.float32) for key, value in after}
        results[f"{name}/losses"] = np.array(losses, np.float32)
    np.savez_compressed(pathlib.Path(__file__).with_name("dqn_update.npz"), **results)


if __name__ == "__main__":
    main()
