import jax
import numpy as np
import pytest

from jaxai.data.buckets import BucketedEpochs, Buckets, choose_buckets, padding, row_positions


def lengths(pairs=2_000, seed=0):
    random = np.random.default_rng(seed)
    sources = random.integers(2, 30, pairs)
    return sources, np.clip(sources + random.integers(-3, 4, pairs), 2, 40)


def test_every_pair_fits_its_bucket_and_every_batch_its_tokens():
    sources, targets = lengths()
    buckets = choose_buckets(sources, targets, 6, tokens=512)
    assert len(buckets.shapes) == 6
    for pair, bucket in enumerate(buckets.of):
        shape = buckets.shapes[bucket]
        assert sources[pair] <= shape.source
        assert targets[pair] <= shape.target
    assert all(shape.rows * max(shape.source, shape.target) <= 512 and shape.rows % 8 == 0 for shape in buckets.shapes)


def test_more_buckets_waste_less():
    sources, targets = lengths()
    wasted = [sum(padding(choose_buckets(sources, targets, n, 512), sources, targets)) for n in (1, 2, 4, 8, 16)]
    assert wasted == sorted(wasted, reverse=True)
    assert wasted[0] == pytest.approx(len(sources) * (sources.max() / sources.sum() + targets.max() / targets.sum()))
    assert wasted[3] < 2.4  # 1.2 on each side


def test_first_cut_is_the_best_of_all():
    sources, targets = lengths(60)
    shapes, of = choose_buckets(sources, targets, 2, 512)

    def cost(chosen):
        parts = [part for part in (chosen, ~chosen) if part.any()]
        return sum(part.sum() * (sources[part].max() + targets[part].max()) for part in parts)

    cuts = [along <= limit for along in (sources, targets) for limit in range(45)]
    allowed = [cut for cut in cuts if min(cut.sum(), (~cut).sum()) >= 8]
    assert cost(of == 0) == min(map(cost, allowed))
    assert len(shapes) == 2


def test_epoch_has_each_pair_once_but_for_what_fills_no_batch():
    buckets = choose_buckets(*lengths(), 4, 512)
    epochs = BucketedEpochs(jax.random.key(0), buckets)
    seen = []
    for batch in epochs.host_indices(0, epochs.batches):
        shape = buckets.shapes[buckets.of[batch[0]]]
        assert (buckets.of[batch] == buckets.of[batch[0]]).all()
        seen += batch[row_positions(shape.rows, epochs.batch_size)].tolist()
    assert len(seen) == len(set(seen))
    assert len(seen) > 2_000 - sum(shape.rows for shape in buckets.shapes)


def test_order_follows_from_key_and_step_alone():
    buckets = choose_buckets(*lengths(), 4, 512)
    epochs = BucketedEpochs(jax.random.key(1), buckets)
    whole = epochs.host_indices(0, 2 * epochs.batches)
    again = BucketedEpochs(jax.random.key(1), buckets).host_indices(5, epochs.batches)
    np.testing.assert_array_equal(again, whole[5 : 5 + epochs.batches])
    assert (whole[: epochs.batches] != whole[epochs.batches :]).any()
    assert (whole[:5] != BucketedEpochs(jax.random.key(2), buckets).host_indices(0, 5)).any()


@pytest.mark.parametrize(("rows", "of", "devices"), [(24, 56, 8), (8, 64, 8), (40, 48, 4), (16, 16, 2)])
def test_each_device_finds_its_share_of_a_batch_at_the_same_places(rows, of, devices):
    whole = row_positions(rows, of)
    assert len(set(whole)) == rows
    for device in range(devices):
        share = row_positions(rows // devices, of // devices) + device * of // devices
        np.testing.assert_array_equal(share, whole[device * rows // devices : (device + 1) * rows // devices])


@pytest.mark.parametrize(
    ("number", "tokens", "pairs", "message"),
    [
        (0, 512, 10, "buckets is 0"),
        (2, 20, 500, "tokens is 20, too few for the longest sequence"),
        (2, 512, 0, "no pairs"),
    ],
)
def test_what_cannot_be_bucketed_is_told(number, tokens, pairs, message):
    with pytest.raises(ValueError, match=message):
        choose_buckets(*lengths(pairs), number, tokens)


def test_pairs_of_one_length_are_one_bucket():
    same = np.full(50, 7)
    shapes, of = choose_buckets(same, same, 8, 70)
    assert shapes == ((7, 7, 8),)
    assert isinstance(choose_buckets(same, same, 8, 70), Buckets)
    assert not of.any()
