"""Augmentation: what is drawn is a legal change of each image by itself, and as likely as it says."""

import keras
import numpy as np
import pytest

from experimentator import Subset, build_experiment
from experimentator.graph import DeclarationError, Graph, Mode, chunk_processor
from experimentator.ops import (
    Gamma,
    Noise,
    RandomBrightness,
    RandomContrast,
    RandomCrop,
    RandomFlip,
    RandomRotation,
    TensorError,
)

MANY = np.arange(2000 * 3 * 4).reshape(2000, 3, 4, 1).astype("float32")


EVERY = {
    "flip": lambda **options: RandomFlip("x", "both", **options),
    "crop": lambda **options: RandomCrop("x", (2, 2), **options),
    "rotation": lambda **options: RandomRotation("x", 40, **options),
    "brightness": lambda **options: RandomBrightness("x", scale=25000, **options),
    "contrast": lambda **options: RandomContrast("x", scale=25000, **options),
    "gamma": lambda **options: Gamma("x", scale=25000, **options),
    "noise": lambda **options: Noise("x", scale=25000, **options),
}
every_op = pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)


def counts(offsets, places):
    return np.bincount(offsets, minlength=places) / len(offsets)


@every_op
def test_images_of_one_batch_draw_each_for_themselves(run_xla, make):
    images = np.tile(MANY[50:51], (12, 1, 1, 1))

    results = run_xla(make(seed=2), {"x": images})

    assert len({result.tobytes() for result in results}) > 3


@every_op
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float64"])
def test_dtypes_and_other_axes_stay(call, make, dtype):
    result = call(make(), {"x": np.ones([3, 6, 7, 2, 2], dtype)})

    assert (result.dtype, result.shape[0], result.shape[3:]) == (dtype, 3, (2, 2))


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float16", "float32"])
@pytest.mark.parametrize(
    "op",
    [
        RandomFlip("x", "both", seed=1),
        RandomCrop("x", (5, 6), 2, seed=1),
        RandomRotation("x", 180, "nearest", seed=1),
    ],
    ids=["flip", "crop", "rotation"],
)
def test_dtypes_stay_and_values_are_not_mixed(run_xla, op, dtype):
    images = np.random.default_rng(0).integers(1, 100, (8, 6, 7, 3)).astype(dtype)

    result = run_xla(op, {"x": images})

    assert result.dtype == dtype
    assert np.all(np.isin(result, [0, *np.unique(images)]))


@pytest.mark.parametrize("axis, flips", [("horizontal", [2]), ("vertical", [1])])
def test_a_share_of_the_images_is_mirrored_and_the_rest_is_left(run_xla, axis, flips):
    result = run_xla(RandomFlip("x", axis, 0.3, seed=5), {"x": MANY})

    mirrored = np.all(result == np.flip(MANY, flips), axis=(1, 2, 3))
    assert np.all(mirrored | np.all(result == MANY, axis=(1, 2, 3)))
    assert mirrored.mean() == pytest.approx(0.3, abs=0.04)  # four standard deviations


def test_both_axes_are_decided_one_by_one(run):
    result = run(RandomFlip("x", "both", seed=5), {"x": MANY})

    for axes in ((), (1,), (2,), (1, 2)):
        assert np.all(result == np.flip(MANY, axes), axis=(1, 2, 3)).mean() == pytest.approx(0.25, abs=0.04)


@pytest.mark.parametrize("probability, axes", [(0.0, ()), (1.0, (2,))])
def test_certain_flips_are_certain(run, probability, axes):
    np.testing.assert_array_equal(run(RandomFlip("x", probability=probability), {"x": MANY}), np.flip(MANY, axes))


@pytest.mark.parametrize("rank", [3, 5])
def test_images_may_have_more_or_fewer_axes(run, rank):
    images = np.arange(4 * 5 * 6 * 2 * 2).reshape(4, 5, 6, 2, 2)
    images = images[..., 0, 0] if rank == 3 else images

    np.testing.assert_array_equal(run(RandomFlip("x", probability=1.0), {"x": images}), np.flip(images, 2))
    assert run(RandomCrop("x", (3, 2)), {"x": images}).shape == (4, 3, 2, *images.shape[3:])


def test_every_window_is_a_part_of_its_image_and_all_places_are_equally_likely(run_xla):
    images = np.tile(np.arange(5 * 6).reshape(1, 5, 6, 1), (3000, 1, 1, 1))

    result = run_xla(RandomCrop("x", (3, 3), seed=9), {"x": images})[..., 0]

    top, left = result[:, 0, 0] // 6, result[:, 0, 0] % 6
    rows, columns = top[:, None] + np.arange(3), left[:, None] + np.arange(3)
    np.testing.assert_array_equal(result, rows[:, :, None] * 6 + columns[:, None, :])
    np.testing.assert_allclose(counts(top, 3), 1 / 3, atol=0.04)
    np.testing.assert_allclose(counts(left, 4), 1 / 4, atol=0.04)
    assert abs(np.corrcoef(top, left)[0, 1]) < 0.07


def test_padding_surrounds_with_zeros(run_xla):
    images = np.ones([500, 4, 4, 2], "uint8")

    result = run_xla(RandomCrop("x", (4, 4), padding=1, seed=2), {"x": images})

    zero_rows = (result[..., 0] == 0).all(2).sum(1)
    zero_columns = (result[..., 0] == 0).all(1).sum(1)
    assert set(zero_rows) == set(zero_columns) == {0, 1}
    assert (result.sum(axis=(1, 2, 3)) == 2 * (4 - zero_rows) * (4 - zero_columns)).all()


def test_a_window_as_large_as_the_image_is_the_image(run):
    np.testing.assert_array_equal(run(RandomCrop("x", (3, 4)), {"x": MANY}), MANY)


def test_a_seed_may_be_a_number_of_numpy():
    assert np.array_equal(
        *(keras.ops.convert_to_numpy(RandomFlip("x", seed=seed).generator.state) for seed in (np.int64(7), 7))
    )


@pytest.mark.parametrize("seed", [1.5, "7", [1]])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(DeclarationError, match=r"its seed is .*\.\nGive a whole number from 0 to 2147483647"):
        RandomFlip("x", seed=seed)


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="TensorFlow takes any whole number")
def test_a_seed_that_the_framework_cannot_hold_is_told():
    with pytest.raises(DeclarationError, match=r"its seed is 1099511627776\.\nGive a whole number from 0"):
        RandomFlip("x", seed=2**40)


@every_op
def test_a_seed_repeats_and_calls_differ(call, make):
    first, second = make(seed=4), make(seed=4)

    a, b, c = (call(op, {"x": MANY}) for op in (first, second, first))

    np.testing.assert_array_equal(a, b)
    assert np.any(a != c)


class Counting(keras.random.SeedGenerator):
    """What an engine hands over: draws that depend on a step it knows, and no state."""

    def __init__(self, step):
        super().__init__(0)
        self.step, self.draws = step, 0

    def next(self, ordered=True):
        self.draws += 1
        return keras.ops.convert_to_tensor([1, self.step], dtype=keras.random.SeedGenerator(0).state.dtype)


@every_op
def test_an_engine_may_hand_over_its_own_generator_and_is_asked_once(call, make):
    op, results = make(), []
    for step in (1, 1, 2):
        op.generator = Counting(step)
        results.append(call(op, {"x": MANY}))
        assert op.generator.draws == 1

    np.testing.assert_array_equal(results[0], results[1])
    assert np.any(results[0] != results[2])


def test_a_generator_that_is_replaced_after_an_epoch_is_the_one_that_is_drawn_from():
    weight, op = keras.Variable(1.0), RandomFlip("batch_x", seed=1)
    loss = chunk_processor(inputs=["batch_x"], outputs=["loss"])(lambda x: keras.ops.mean((x * weight) ** 2))
    subsets = [Subset("training", Mode.TRAIN, {"x": MANY[:8]})]
    config = {"subsets": subsets, "chunk_processors": [op, loss], "batch_size": 4, "hide_progress": True}
    exp = build_experiment(config | {"optimizer": keras.optimizers.SGD(1e-9)})
    exp.train(1)

    op.generator = keras.random.SeedGenerator(5)
    exp.train(2)

    assert keras.ops.convert_to_numpy(op.generator.state).tolist()[1] > 0


@every_op
def test_augmentation_runs_in_train_only(make):
    op = make()

    assert Graph([op], provided={"x"}, mode=Mode.TRAIN).nodes
    assert not Graph([op], provided={"x"}, mode=Mode.EVAL).nodes


def test_another_mode_may_be_asked_for():
    assert RandomFlip("x", mode=Mode.ALL).mode == Mode.ALL


@pytest.mark.parametrize(
    "make, told",
    [
        (lambda: RandomFlip("x", "diagonal"), "no axis 'diagonal'(.|\n)*'horizontal', 'vertical', 'both'"),
        (lambda: RandomFlip("x", probability=2), "probability is 2"),
        (lambda: RandomCrop("x", 3), "size is 3"),
        (lambda: RandomCrop("x", (3, 0)), "size is "),
        (lambda: RandomCrop("x", (3, 3), -1), "padding is below 0"),
    ],
)
def test_impossible_declarations_are_refused(make, told):
    with pytest.raises(DeclarationError, match=told):
        make()


def test_what_has_no_rows_and_columns_is_refused(call):
    with pytest.raises(TensorError, match=r"rows and columns(.|\n)*'x' \[4, 4\] float64"):
        call(RandomFlip("x"), {"x": np.ones([4, 4])})


def test_a_window_larger_than_the_image_is_refused(call):
    with pytest.raises(TensorError, match="smaller size, or more padding"):
        call(RandomCrop("x", (6, 4), padding=1), {"x": MANY})
