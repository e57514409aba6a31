"""Q networks in linen: an MLP, MinAtar's and the Nature DQN's, with dueling streams, noisy layers and distributions.

All take observations `[batch, *observation_shape]`, encoded as in `jaxai.dqn.observations`, and return float32
`[batch, actions]`, or `[batch, actions, atoms]` with a distribution. Parameters are float32 whatever the compute dtype.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jaxai import ranges
from jaxai.dqn.observations import Encoding, Observations
from jaxai.ops.conv import patches_matmul
from jaxai.ranges import Count, Finite, NonNegative, Range

__all__ = [
    "Activation",
    "ComputeDtype",
    "Distribution",
    "Network",
    "NoisyDense",
    "QNetwork",
    "Torso",
    "atoms",
    "build",
    "convolution",
    "factorised_noise",
    "q_values",
]

Torso = Literal["auto", "mlp", "minatar", "nature"]
Activation = Literal["relu", "tanh", "silu", "gelu", "elu"]
Distribution = Literal["none", "categorical", "quantile"]
ComputeDtype = Literal["float32", "bfloat16"]

HIDDEN = {"mlp": (64, 64), "minatar": (128,), "nature": (512,)}
CONVOLUTIONS = {  # (features, window, stride) of each
    "mlp": (),
    "minatar": ((16, 3, 1),),  # Young and Tian 2019, arXiv:1903.03176
    "nature": ((32, 8, 4), (64, 4, 2), (64, 3, 1)),  # Mnih et al. 2015
}
LEAST_SIDE = {"mlp": 0, "minatar": 3, "nature": 36}


@dataclass(frozen=True)
class Network:
    """The Q network: its torso, its layers, and the distribution of returns that it predicts."""

    observations: Observations = "auto"  # auto: by the environment's space; scale (by 1/255), cast (as is), one_hot
    torso: Torso = "auto"  # auto: nature for images of 36 pixels a side or more, minatar for smaller ones, else mlp
    hidden: tuple[Count, ...] = ()  # units of the dense layers; empty: 64 64 for mlp, 128 for minatar, 512 for nature
    activation: Activation = "relu"  # after each hidden layer
    layer_norm: bool = False  # normalise each hidden layer over its features, before the activation
    dueling: bool = False  # one stream for the state's value, one for the advantages of the actions
    noisy: bool = False  # explore by learned noise in the dense layers; no random actions then unless epsilon is set
    noisy_sigma: NonNegative = 0.5  # scale of that noise at the start
    distribution: Distribution = "none"  # of returns: none (their mean), categorical (C51) or quantile (QR-DQN)
    atoms: Annotated[int, Range(least=2)] = 51  # of the distribution (QR-DQN's paper: 200)
    value_min: Finite = -10.0  # smallest return of the categorical distribution
    value_max: Finite = 10.0  # largest return of the categorical distribution
    dtype: ComputeDtype = "float32"  # of activations; parameters and outputs stay float32


def convolution(
    lhs: jax.Array, rhs: jax.Array, window_strides: Sequence[int], padding: Any, **options: Any
) -> jax.Array:
    """`lax.conv_general_dilated` of `nn.Conv` for VALID padding: one matmul on CPU, lax's own elsewhere.

    `ops.conv_general_dilated` computes the patches a second time for the gradient, to save memory. A Q network's
    images are few and small: here the patches are kept, and the gradient takes two thirds of the time.

    Args:
      lhs: images [batch, height, width, channels].
      rhs: kernel [height, width, channels, features].
      window_strides: vertical and horizontal.
      padding: "VALID", or no padding in another form.
      **options: further arguments of `lax.conv_general_dilated`, as `nn.Conv` gives them.
    """
    return lax.platform_dependent(
        lhs,
        rhs,
        cpu=lambda images, kernel: patches_matmul(images, kernel, window_strides, ((0, 0), (0, 0))),
        default=lambda images, kernel: lax.conv_general_dilated(images, kernel, window_strides, padding, **options),
    )


def factorised_noise(key: jax.Array, batch: int, size: int) -> jax.Array:
    """Draws of `f(e) = sign(e) sqrt(|e|)`, `e` standard normal (Fortunato et al. 2018, arXiv:1706.10295).

    Args:
      key: of the draws.
      batch: number of rows.
      size: number of inputs or outputs of the layer.

    Returns:
      [batch, size] float32.
    """
    noise = jax.random.normal(key, (batch, size))
    return _computed_once(jnp.sign(noise) * jnp.sqrt(jnp.abs(noise)))


def _computed_once(x: jax.Array) -> jax.Array:
    """The same values, which XLA on CPU then computes once and not for every element that they are broadcast to.

    It fuses cheap producers into their consumers, and considers the inverse error function of a normal draw cheap. It
    does not fuse a product, here with the identity.
    """

    def product(x: jax.Array) -> jax.Array:
        padded = jnp.pad(x, ((0, 0), (0, -x.shape[1] % 8))).reshape(-1, 8)
        return jnp.dot(padded, jnp.eye(8), precision=lax.Precision.HIGHEST).reshape(len(x), -1)[:, : x.shape[1]]

    return cast(jax.Array, lax.platform_dependent(x, cpu=product, default=lambda x: x))


class NoisyDense(nn.Module):
    """Dense layer whose weights have learned, factorised Gaussian noise (Fortunato et al. 2018, arXiv:1706.10295).

    `y = x (W + S * f(e_in) f(e_out)^T) + b + s * f(e_out)` with `f(e) = sign(e) sqrt(|e|)`. Each example
    can have its own noise without its own weights: `x` times the noisy part is `((x * f(e_in)) S) * f(e_out)`, one
    more matmul; noise that all examples share does not need it. Without a "noise" generator the mean weights are used.
    """

    features: int
    sigma: float = 0.5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, noise: jax.Array | None = None) -> jax.Array:
        """[batch, inputs] -> [batch, features]; `noise` [batch or 1, inputs + features] where drawn before."""
        bound = x.shape[-1] ** -0.5

        def uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            return jax.random.uniform(key, shape, minval=-bound, maxval=bound)

        constant = nn.initializers.constant(self.sigma * bound)
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", uniform, shape).astype(self.dtype)
        bias = self.param("bias", uniform, shape[1:]).astype(self.dtype)
        kernel_sigma = self.param("kernel_sigma", constant, shape).astype(self.dtype)
        bias_sigma = self.param("bias_sigma", constant, shape[1:]).astype(self.dtype)
        x = x.astype(self.dtype)
        if noise is None and not self.has_rng("noise"):
            return x @ kernel + bias
        if noise is None:
            noise = factorised_noise(self.make_rng("noise"), len(x), sum(shape))
        noise = noise.astype(self.dtype)
        noise_in, noise_out = noise[:, : shape[0]], noise[:, shape[0] :]
        if len(noise) == 1:
            return x @ (kernel + kernel_sigma * noise_in.T * noise_out) + bias + bias_sigma * noise_out[0]
        return x @ kernel + bias + ((x * noise_in) @ kernel_sigma + bias_sigma) * noise_out


class QNetwork(nn.Module):
    """Convolutions of the torso, shared dense layers, then one stream of a hidden and an output layer, or two.

    - `dueling` (Wang et al. 2016, arXiv:1511.06581): the last hidden layer exists once for the value `v` and once for
      the advantages `a`, and `q = v + a - mean(a)`, atom by atom if there is a distribution.
    - `noisy`: every dense layer except the one that reads the observation, as in Rainbow (Hessel et al. 2018,
      arXiv:1710.02298), where convolutions read it: an MLP's first layer has no noise.
    - `shared_noise`: one draw for the whole batch, for a learner; otherwise one for each example, for actors.
    - `layer_norm` is applied before each activation, over a convolution's channels or a dense layer's units.
    - The output layers compute in float32 whatever `dtype`: TD errors are small differences of large values.
    """

    num_actions: int
    torso: str = "mlp"
    hidden: tuple[int, ...] = HIDDEN["mlp"]
    activation: str = "relu"
    layer_norm: bool = False
    dueling: bool = False
    noisy: bool = False
    noisy_sigma: float = 0.5
    shared_noise: bool = False
    atoms: int = 0  # 0: one value for each action
    dtype: Any = jnp.float32
    encoding: Encoding | None = None  # of observations; None: uint8 scaled by 1/255, everything else cast

    @nn.compact
    def __call__(self, observations: jax.Array) -> jax.Array:
        """Observations [batch, ...] -> float32 [batch, actions], or [batch, actions, atoms] where `atoms` > 0."""

        def activate(x: jax.Array, name: str) -> jax.Array:
            if self.layer_norm:
                x = nn.LayerNorm(dtype=self.dtype, name=f"{name}_norm")(x)
            return getattr(nn, self.activation)(x)

        def dense(x: jax.Array, features: int, name: str, dtype: Any, reads_observation: bool = False) -> jax.Array:
            if self.noisy and not reads_observation:
                return NoisyDense(features, self.noisy_sigma, dtype, name=name)(x, next(noise))
            return nn.Dense(features, dtype=dtype, name=name)(x)

        encoding = self.encoding or Encoding(1 / 255 if observations.dtype == jnp.uint8 else 1.0)
        x = encoding(observations).astype(self.dtype)
        if self.torso != "mlp" and x.ndim == 3:
            x = x[..., None]
        for index, (features, window, stride) in enumerate(CONVOLUTIONS[self.torso]):
            x = nn.Conv(
                features,
                (window, window),
                (stride, stride),
                padding="VALID",
                dtype=self.dtype,
                conv_general_dilated=convolution,
                name=f"conv_{index}",
            )(x)
            x = activate(x, f"conv_{index}")
        x = x.reshape(x.shape[0], -1)

        streams = {"value": 1, "advantage": self.num_actions} if self.dueling else {"q": self.num_actions}
        streams = {name: rows * max(self.atoms, 1) for name, rows in streams.items()}
        noise = self.layers_noise(x, list(streams.values()))
        first = self.torso == "mlp"
        for index, width in enumerate(self.hidden[:-1]):
            x = activate(dense(x, width, f"dense_{index}", self.dtype, first and index == 0), f"dense_{index}")
        first = first and len(self.hidden) == 1
        outputs = {}
        for stream, features in streams.items():
            y = activate(dense(x, self.hidden[-1], f"{stream}_hidden", self.dtype, first), f"{stream}_hidden")
            y = dense(y.astype(jnp.float32), features, stream, jnp.float32)
            outputs[stream] = y.reshape(y.shape[0], -1, self.atoms) if self.atoms else y
        if not self.dueling:
            return outputs["q"]
        advantage = outputs["advantage"]
        return outputs["value"] + advantage - jnp.mean(advantage, axis=1, keepdims=True)

    def layers_noise(self, x: jax.Array, streams: list[int]) -> Iterator[jax.Array | None]:
        """The noise of each noisy layer in turn, or endless None, for features `x` and outputs of size `streams`.

        One draw for all layers: the code of each random generator takes a second or more to compile on CPU.
        """
        if not (self.noisy and self.has_rng("noise")):
            return itertools.repeat(None)
        *shared, last = self.hidden
        widths = [x.shape[-1], *shared]
        layers = list(itertools.pairwise(widths))
        layers += [layer for outputs in streams for layer in ((widths[-1], last), (last, outputs))]
        if self.torso == "mlp":  # without those that read the observation
            layers = layers[1:] if shared else layers[1::2]
        sizes = [inputs + features for inputs, features in layers]
        noise = factorised_noise(self.make_rng("noise"), 1 if self.shared_noise else len(x), sum(sizes))
        return iter(jnp.split(noise, list(itertools.accumulate(sizes))[:-1], axis=1))


def build(
    network: Network, observation_shape: Sequence[int], num_actions: int, encoding: Encoding | None = None
) -> QNetwork:
    """The linen module of a config.

    Args:
      network: the config.
      observation_shape: of one observation. [height, width, channels] or [height, width] for the convolutional torsos.
      num_actions: of the environment.
      encoding: of the observations, from `make_encoding`; None: by the config and the dtype alone, where `auto` scales
        uint8 and casts everything else.

    Returns:
      A module whose `apply({"params": params}, observations, rngs={"noise": key})` draws the noise of noisy layers;
      without `rngs` they compute with their mean weights.

    Raises:
      ValueError: a field of the config is out of its range, or its torso does not fit the observations.
    """
    ranges.check(network)
    if num_actions < 1:
        raise ValueError(f"num_actions is {num_actions}, expected at least 1")
    if network.distribution == "categorical" and not network.value_min < network.value_max:
        raise ValueError(
            f"value_min is {network.value_min} and value_max is {network.value_max}, expected value_min < value_max"
        )
    if encoding is None and network.observations != "auto":
        if network.observations == "one_hot":
            raise ValueError("observations is one_hot, and build knows no categories; give it encoding=Encoding(...)")
        encoding = Encoding(1 / 255 if network.observations == "scale" else 1.0)
    shape = tuple(observation_shape)
    torso = _torso(network.torso, shape if encoding is None else encoding.shape(shape))
    return QNetwork(
        num_actions=num_actions,
        torso=torso,
        hidden=tuple(network.hidden) or HIDDEN[torso],
        activation=network.activation,
        layer_norm=network.layer_norm,
        dueling=network.dueling,
        noisy=network.noisy,
        noisy_sigma=network.noisy_sigma,
        atoms=0 if network.distribution == "none" else network.atoms,
        dtype=jnp.dtype(network.dtype),
        encoding=encoding,
    )


def _torso(torso: str, shape: tuple[int, ...]) -> str:
    """The torso, for "auto" by the shape; raises ValueError where the observations do not fit it."""
    is_image = len(shape) in (2, 3)
    side = min(shape[:2]) if is_image else 0
    if torso == "auto":
        if len(shape) == 3 and shape[0] <= 4 and min(shape[1:]) >= LEAST_SIDE["nature"]:
            raise ValueError(
                f"observations of shape {shape} have their channels first, and the convolutions need [height, width, "
                "channels]: turn them in a wrapper, or choose a torso, as --torso mlp"
            )
        if is_image and side >= LEAST_SIDE["nature"]:
            return "nature"
        # A matrix has no channels: a stack of vectors, or a board of a few cells.
        return "minatar" if len(shape) == 3 and side >= LEAST_SIDE["minatar"] else "mlp"
    if torso != "mlp" and (not is_image or side < LEAST_SIDE[torso]):
        raise ValueError(
            f"observations of shape {shape} do not fit the {torso} torso: it needs [height, width, channels] of at "
            f"least {LEAST_SIDE[torso]}x{LEAST_SIDE[torso]} pixels; choose another torso, or auto"
        )
    return torso


def atoms(network: Network) -> jax.Array:
    """The support of the categorical distribution: returns [atoms] float32, equally spaced.

    Bellemare et al. 2017, arXiv:1707.06887.
    """
    return jnp.linspace(network.value_min, network.value_max, network.atoms, dtype=jnp.float32)


def q_values(network: Network, outputs: jax.Array) -> jax.Array:
    """Expected return of each action, from the outputs of the network.

    Args:
      network: the config.
      outputs: [..., actions] values, or [..., actions, atoms] logits (categorical) or values (quantile).

    Returns:
      [..., actions]: the outputs themselves, the mean over the atoms, or the mean of the quantiles.
    """
    if network.distribution == "categorical":
        return jax.nn.softmax(outputs) @ atoms(network)
    if network.distribution == "quantile":
        return jnp.mean(outputs, axis=-1)
    return outputs
