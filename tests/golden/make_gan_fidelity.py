"""Writes `gan_fidelity.npz`: what torch-fidelity and prdc say of features that the tests make again from the seed.

    python tests/golden/make_gan_fidelity.py

It needs torch-fidelity, prdc and scikit-learn, which the tests that read the file do not. Written with torch-fidelity
0.4.0 and prdc 0.2 in float64.
"""

import pathlib

import numpy as np

EXAMPLES, FEATURES, CLASSES = 600, 24, 10


def features(seed: int, shift: float = 0.0) -> np.ndarray:
    """Like those of a network: mixed, rectified, a fifth of them always 0; float32 [examples, features]."""
    mixing = np.random.default_rng(99).normal(size=(12, FEATURES))
    mixing[:, ::5] = 0
    hidden = np.random.default_rng(seed).normal(size=(EXAMPLES, 12))
    return np.maximum(hidden @ mixing + shift * mixing[0], 0).astype(np.float32)


def logits(seed: int) -> np.ndarray:
    """Of a classifier that is sure of most; float32 [examples, classes]."""
    return (4 * np.random.default_rng(seed).normal(size=(EXAMPLES, CLASSES))).astype(np.float32)


def measures(real: np.ndarray, generated: np.ndarray) -> dict[str, float]:
    """Each measure of both libraries, by the name that the tests use."""
    import prdc  # these two are the only things here that the project does not depend on
    import torch
    from torch_fidelity import metric_fid, metric_kid, metric_prc

    tensors = [torch.from_numpy(sample.astype(np.float64)) for sample in (generated, real)]
    statistics = [metric_fid.fid_features_to_statistics(tensor) for tensor in tensors]
    # One subset of everything: nothing is left to chance.
    kernel = metric_kid.kid_features_to_metric(*tensors, kid_subsets=1, kid_subset_size=EXAMPLES, verbose=False)
    manifolds = metric_prc.prc_features_to_metric(*tensors, save_cpu_ram=False, verbose=False)
    balls = prdc.compute_prdc(real.astype(np.float64), generated.astype(np.float64), nearest_k=5)
    return {
        "frechet_distance": metric_fid.fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"],
        "kernel_distance": kernel["kernel_inception_distance_mean"],
        "precision": manifolds["precision"],
        "recall": manifolds["recall"],
        "density": balls["density"],
        "coverage": balls["coverage"],
    }


def inception(given: np.ndarray, splits: int) -> np.ndarray:
    """Mean and deviation over splits."""
    import torch
    from torch_fidelity import metric_isc

    score = metric_isc.isc_features_to_metric(torch.from_numpy(given), splits=splits, shuffle=False)
    return np.array([score["inception_score_mean"], score["inception_score_std"]])


if __name__ == "__main__":
    real = features(0)
    written: dict[str, np.ndarray] = {}
    for name, generated in {"floor": features(1), "near": features(2, 0.2), "far": features(3, 2.0)}.items():
        written |= {f"{name}/{measure}": np.array(value) for measure, value in measures(real, generated).items()}
    for splits in (1, 7, 10):
        written[f"inception_score/{splits}"] = inception(logits(4), splits)
    path = pathlib.Path(__file__).with_name("gan_fidelity.npz")
    np.savez_compressed(path, **written)
    print(f"{path}: {path.stat().st_size:,} bytes")
