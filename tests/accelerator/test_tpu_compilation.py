"""The train step compiled for TPUs by libtpu, which needs no TPU: `pip install libtpu` beside jax."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json
import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxai import cnn, gan
from jaxai.runtime import parallel

mode = {mode!r}
topology = topologies.get_topology_desc(platform="tpu", topology_name={topology!r})
mesh = Mesh(np.array(topology.devices), (parallel.AXIS,))
config = {config}
workload = (gan if isinstance(config, gan.Config) else cnn).make(config, parallel.axis_name(mode))
everywhere = NamedSharding(mesh, PartitionSpec())
place = lambda tree, sharding: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)
state = place(jax.eval_shape(workload.init, jax.random.key(0)), everywhere)
dataset = place({{"image": jax.ShapeDtypeStruct((1024, *config.image_shape), np.uint8),
                 "label": jax.ShapeDtypeStruct((1024,), np.int32)}}, everywhere)
index = jax.ShapeDtypeStruct((4, 32 * mesh.size), np.int32, sharding=NamedSharding(mesh, PartitionSpec(None, "data")))
lowered = parallel.compile_step(workload.train_step, mesh, mode, 4).lower(state, index, dataset)
compiled = lowered.compile()
memory = compiled.memory_analysis()
text = compiled.as_text()
print(json.dumps({{"devices": mesh.size, "alias": memory.alias_size_in_bytes, "convolution": "convolution" in text,
                  "state": sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((state.params, state.opt_state)))}}))
"""


def compiled(program: str, accelerator: str) -> dict[str, int]:
    """What a program prints in its last line, run where libtpu believes to be on such a machine."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": accelerator,
        "TPU_WORKER_HOSTNAMES": "localhost",
    }
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


CNN = 'cnn.Config(dtype="bfloat16", gradient_blocks=1)'
DCGAN = 'gan.Config(dtype="bfloat16", self_modulation=32, r1=1.0, r1_interval=4, polyphase=True)'
SNGAN = (
    'gan.Config(architecture="residual", image_shape=(32, 32, 3), width=128, dtype="bfloat16", loss="hinge",'
    ' spectral_normalization="discriminator", discriminator_steps=2)'
)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install libtpu")
@pytest.mark.parametrize("config", [CNN, DCGAN, SNGAN])
@pytest.mark.parametrize(
    ("topology", "accelerator", "mode"),
    [("v5e:2x2", "v5litepod-4", "jit"), ("v5e:2x2", "v5litepod-4", "shard_map"), ("v6e:2x2", "v6e-4", "jit")],
)
def test_step_compiles_for_a_tpu_with_its_convolutions_and_its_donation(
    topology: str, accelerator: str, mode: str, config: str
) -> None:
    found = compiled(PROGRAM.format(topology=topology, mode=mode, config=config), accelerator)
    assert found["devices"] == 4
    assert found["convolution"]
    assert found["alias"] >= found["state"]


SENTENCES = """
import json
import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxai import seq2seq
from jaxai.runtime import parallel

topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
mesh = Mesh(np.array(topology.devices), (parallel.AXIS,))
config = seq2seq.Config(source_vocabulary=500, target_vocabulary=500, dtype="bfloat16", dropout=0.1)
shapes = [seq2seq.Shape(16, 16, 128), seq2seq.Shape(32, 24, 64)]
workload = seq2seq.bucketed(seq2seq.make(config, parallel.AXIS), shapes)
everywhere = NamedSharding(mesh, PartitionSpec())
place = lambda tree: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), tree)
state = place(jax.eval_shape(workload.init, jax.random.key(0)))
array = lambda *shape: jax.ShapeDtypeStruct((1024, *shape), np.int32)
dataset = {"source": array(32), "target": array(24), "source_length": array(), "target_length": array(),
           "bucket": array()}
index = jax.ShapeDtypeStruct((4, 128), np.int32, sharding=NamedSharding(mesh, PartitionSpec(None, "data")))
lowered = parallel.compile_step(workload.train_step, mesh, "shard_map", 4).lower(state, index, place(dataset))
memory = lowered.compile().memory_analysis()
print(json.dumps({"alias": memory.alias_size_in_bytes,
                  "state": sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((state.params, state.opt_state)))}))
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install libtpu")
def test_buckets_of_sentences_compile_for_a_tpu_in_one_program() -> None:
    found = compiled(SENTENCES, "v5litepod-4")
    assert found["alias"] >= found["state"]
