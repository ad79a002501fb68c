"""Batches: seeded, of one shape, the same through Ray and without, the same steps for every rank."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from phaseray.pipeline import loading
from phaseray.pipeline.loading import Dataset, open_dataset

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def data(shards: Path) -> Dataset:
    return open_dataset(shards)


def ids(data: Dataset, **options: int) -> list[list[str]]:
    return [b.ids for b in data.batches("train", 8, **options)]


def flat(batches: list[list[str]]) -> list[str]:
    return [name for batch in batches for name in batch]


def test_an_epoch_holds_every_crystal_once(data: Dataset) -> None:
    batches = ids(data, seed=1)
    assert len(flat(batches)) == len(set(flat(batches))) == data.count("train")
    assert len(batches) == data.steps("train", 8)


def test_order_depends_on_seed_and_epoch_alone(data: Dataset) -> None:
    assert ids(data, seed=1, epoch=3) == ids(data, seed=1, epoch=3)
    assert ids(data, seed=1, epoch=3) != ids(data, seed=1, epoch=4)
    assert ids(data, seed=1, epoch=3) != ids(data, seed=2, epoch=3)
    assert ids(data, shuffle=False, seed=1) == ids(data, shuffle=False, seed=2)


def test_ray_and_no_ray_give_the_same_batches(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "WINDOW_BYTES", 64 * 16**3 * 6)
    through_ray = list(data.batches("train", 8, seed=5))
    monkeypatch.setattr(loading, "_ray_runs", lambda: False)
    without = list(data.batches("train", 8, seed=5))
    assert len(data._windows("train", 8, 5, 0, 0, 1, True)) > 2
    assert [b.ids for b in through_ray] == [b.ids for b in without]
    for a, b in zip(through_ray, without, strict=True):
        np.testing.assert_array_equal(a.density, b.density)
        np.testing.assert_array_equal(a.amplitude, b.amplitude)
        assert [x.tolist() for x in a.positions] == [x.tolist() for x in b.positions]


@pytest.mark.usefixtures("ray_cluster")
def test_who_holds_all_cpus_gets_batches_all_the_same(data: Dataset) -> None:
    """As the workers of a training do on a small machine, or on a cluster that has lost nodes."""
    import ray

    # in a thread of its own, as Ray Train does: the main thread of a worker gives its CPU away while it waits
    @ray.remote(num_cpus=int(ray.cluster_resources()["CPU"]))
    class Worker:
        def ids(self) -> list[str]:
            # as of a split too large to be kept: it comes through Ray Data
            setattr(loading.Dataset, "_is_small", lambda self, split: False)  # noqa: B010
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(
                    lambda: [i for batch in data.batches("train", 8, seed=5) for i in batch.ids]
                ).result()

    worker = Worker.remote()
    try:
        assert len(ray.get(worker.ids.remote(), timeout=60)) == data.count("train")
    finally:
        ray.kill(worker)


def test_a_split_no_larger_than_a_window_is_read_once(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    columns = loading._columns
    monkeypatch.setattr(loading, "_columns", lambda path, file: (read.append(file), columns(path, file))[1])
    loading._kept.cache_clear()
    kept = [list(data.batches("train", 8, seed=5, epoch=epoch)) for epoch in (1, 2)]
    assert len(read) == len(set(read)) > 0
    monkeypatch.setattr(loading, "_ray_runs", lambda: False)
    monkeypatch.setattr(Dataset, "_is_small", lambda self, split: False)
    for epoch, batches in zip((1, 2), kept, strict=True):
        for a, b in zip(batches, data.batches("train", 8, seed=5, epoch=epoch), strict=True):
            assert a.ids == b.ids
            np.testing.assert_array_equal(a.density, b.density)


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_take_equal_steps_and_share_nothing(data: Dataset, world: int) -> None:
    ranks = [[b.ids for b in data.batches("train", 4, seed=1, rank=r, world=world)] for r in range(world)]
    assert len({len(r) for r in ranks}) == 1
    assert len(ranks[0]) == data.steps("train", 4, world)
    for step in zip(*ranks, strict=True):
        assert len({len(batch) for batch in step}) == 1
    together = [name for r in ranks for name in flat(r)]
    assert len(together) == len(set(together)) >= data.count("train") - 3 * world


def test_two_ranks_together_take_the_steps_of_one_with_twice_the_batch(data: Dataset) -> None:
    one = [set(b.ids) for b in data.batches("train", 8, seed=1)]
    two = [[set(b.ids) for b in data.batches("train", 4, seed=1, rank=r, world=2)] for r in range(2)]
    for whole, a, b in zip(one[:-1], two[0], two[1], strict=False):
        assert a | b == whole


def test_batches_hold_what_the_shards_hold(data: Dataset) -> None:
    batch = next(data.batches("val", 5))
    assert batch.density.shape == (5, 16, 16, 16)
    assert batch.amplitude.shape == (5, 16, 16, 9)
    assert batch.density.dtype == batch.amplitude.dtype == np.float32
    assert batch.volume.shape == (5,)
    assert batch.cell.shape == (5, 6)
    for numbers, positions, formula in zip(batch.numbers, batch.positions, batch.formulas, strict=True):
        assert positions.shape == (len(numbers), 3)
        assert formula
    electrons = batch.density.mean((1, 2, 3)) * batch.volume
    np.testing.assert_allclose(electrons, batch.amplitude[:, 0, 0, 0], rtol=1e-4)
