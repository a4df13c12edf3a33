"""Data sets of TensorFlow Datasets, read without TensorFlow.

A data set that is on disk as array_record is read as it is. Another is downloaded
and prepared first, and for that many data sets do need TensorFlow.
"""

import difflib
from typing import Any

import numpy as np

from wpl_jax.common.counted import counted
from wpl_jax.data.errors import DataError
from wpl_jax.data.files import PathLike
from wpl_jax.data.host_memory import require_memory
from wpl_jax.data.images.checks import as_split
from wpl_jax.data.images.source import Source, Split
from wpl_jax.data.network import answers

_NAME = "the name of a data set of tensorflow-datasets"
_FORMAT = "array_record"  # the one that needs no TensorFlow to be read
_OTHERWISE = "or get the images elsewhere and load them as npz, idx or folder"


def read_tfds(
    path: PathLike | None = None,
    *,
    data_dir: PathLike | None = None,
    train_split: str = "train",
    valid_split: str | None = None,
    test_split: str | None = "test",
    image_key: str = "image",
    label_key: str = "label",
    download_url: str = "https://storage.googleapis.com/",
) -> Source:
    """Reads a data set of TensorFlow Datasets by its name.

    Args:
      path: The name, e.g. "mnist", "cifar10:3.0.2" or "cmaterdb/devanagari".
      data_dir: The folder of prepared data sets; None for tensorflow-datasets'
        own: $TFDS_DATA_DIR or ~/tensorflow_datasets.
      train_split: The training split.
      valid_split: The validation split; None for "validation", where the data set
        has it and it is not the test split.
      test_split: The test split; None to hold one out of the training split.
      image_key: The feature with the images.
      label_key: The feature with the labels.
      download_url: What has to answer within seconds before a download is tried.

    Returns:
      The splits and class names of the data set.

    Raises:
      DataError: There is no such data set, split or feature; or it is not on disk
        and the network cannot be reached; or it is on disk in another format.
    """
    if not isinstance(path, str) or not path:
        remedy = "give for instance path='mnist'"
        raise DataError("path", repr(path), _NAME, remedy, "path")
    builder = _make_builder(path, data_dir)
    if not builder.is_prepared():
        builder = _prepare(builder, path, data_dir, download_url)
    where = f"tfds {path} in {builder.data_dir}"
    _check_format(builder, path, where)
    _check_features(builder, image_key, label_key, where)
    has_valid = "validation" in builder.info.splits
    if valid_split is None and has_valid and test_split != "validation":
        valid_split = "validation"
    _check_splits(builder, (train_split, valid_split, test_split), where)

    def read(split: str) -> Split:
        return _read_split(builder, split, (image_key, label_key), where)

    return Source(
        train=read(train_split),
        valid=None if valid_split is None else read(valid_split),
        test=None if test_split is None else read(test_split),
        class_names=tuple(builder.info.features[label_key].names or ()) or None,
        name=where,
    )


def _make_builder(name: str, data_dir: PathLike | None, **options: str) -> Any:
    """The tensorflow-datasets builder of a name; downloads nothing."""
    import tensorflow_datasets as tfds

    where = f"tfds {name} in {data_dir or 'the default data_dir'}"
    try:
        return tfds.builder(name, data_dir=data_dir, **options)
    except tfds.core.DatasetNotFoundError as error:
        # Those of the community are listed on a server.
        known = tfds.list_builders(with_community_datasets=False)
        close = difflib.get_close_matches(name, known, n=3)
        others = "see tfds.list_builders(with_community_datasets=False)"
        remedy = f"try {' or '.join(close)}" if close else others
        raise DataError(where, "no data set of that name", _NAME, remedy) from error
    # A builder is a data set's own code and may raise anything, such as an
    # AssertionError for a version that it does not know.
    except Exception as error:
        expected = "a name as DATASET, DATASET/CONFIG or DATASET:VERSION"
        remedy = "correct the name, the configuration or the version"
        raise DataError(where, _summary(error), expected, remedy) from error


def _prepare(builder: Any, name: str, data_dir: PathLike | None, url: str) -> Any:
    """The builder after its data was downloaded and written as array_record."""
    where = f"tfds {name} in {builder.data_dir}"
    command = f"tfds build {name} --file_format={_FORMAT}"
    if data_dir is not None:
        command += f" --data_dir={data_dir}"
    if not answers(url):  # tensorflow-datasets would try for minutes
        raise DataError(
            where,
            f"no data set on disk, and no network ({url} cannot be reached)",
            f"the data set on disk as {_FORMAT}, or a network to download it from",
            f"give the data_dir that has it, or run `{command}` where there is a"
            f" network and copy that folder, {_OTHERWISE}",
        )
    builder = _make_builder(name, data_dir, file_format=_FORMAT)
    try:
        builder.download_and_prepare()
    except ImportError as error:
        found = f"no data set on disk, and preparing it failed ({_summary(error)})"
        expected = "the packages that prepare it; reading it will need them no more"
        remedy = f"install {error.name or 'them'}, run `{command}` once, {_OTHERWISE}"
        raise DataError(where, found, expected, remedy) from error
    except Exception as error:  # again the data set's own code
        found = f"no data set on disk, and preparing it failed ({_summary(error)})"
        remedy = f"run `{command}` to see all that it says, {_OTHERWISE}"
        raise DataError(where, found, "a download that works", remedy) from error
    return builder


def _check_format(builder: Any, name: str, where: str) -> None:
    """The data is on disk in the format that needs no TensorFlow."""
    formats = sorted(known.value for known in builder.info.available_file_formats())
    if formats and _FORMAT not in formats:
        raise DataError(
            where,
            f"a data set prepared as {', '.join(formats)}, which needs TensorFlow to"
            " be read",
            f"one prepared as {_FORMAT}, which needs none",
            f"run `tfds build {name} --file_format={_FORMAT} --data_dir=NEW` with"
            f" another folder for NEW and give data_dir=NEW, {_OTHERWISE}",
        )


def _check_features(builder: Any, image_key: str, label_key: str, where: str) -> None:
    """The keys are those of an image and of a class label."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    known = ", ".join(f"{key} ({type(f).__name__})" for key, f in features.items())
    for option, key, kind in (
        ("image_key", image_key, tfds.features.Image),
        ("label_key", label_key, tfds.features.ClassLabel),
    ):
        if key not in features or not isinstance(features[key], kind):
            found = f"no feature {key!r} of type {kind.__name__}, but {known}"
            remedy = f"set {option}, or take a data set for image classification"
            expected = f"a {kind.__name__} as {option}"
            raise DataError(where, found, expected, remedy, option)


def _check_splits(builder: Any, splits: tuple[str | None, ...], where: str) -> None:
    """The splits are different ones of those that the data set has."""
    known = list(builder.info.splits)
    chosen = [split for split in splits if split is not None]
    # Without metadata, as tfds.testing.mock_data has none, no names are known.
    unknown = [split for split in chosen if known and split not in known]
    if unknown or len(set(chosen)) < len(chosen):
        raise DataError(
            where,
            f"no split {unknown[0]!r}" if unknown else f"a split twice in {chosen}",
            f"different ones of {', '.join(known)}",
            "set train_split, valid_split and test_split; test_split=None holds a"
            " test share out of the training split",
        )


def _read_split(builder: Any, split: str, keys: tuple[str, str], where: str) -> Split:
    """One split, decoded into memory."""
    shapes = set()
    images, labels = np.empty(0, np.uint8), []
    try:
        source = builder.as_data_source(split=split)
        for number, example in enumerate(source):
            image = np.asarray(example[keys[0]])
            if not number:
                images = _room_for(image, len(source), f"{where} ({split})")
            shapes.add(image.shape)
            if len(shapes) == 1:
                images[number] = image
            labels.append(example[keys[1]])
    except DataError:  # which is a ValueError too
        raise
    except Exception as error:  # whatever the decoders make of a broken file
        found = f"a split {split!r} that cannot be read ({_summary(error)})"
        remedy = "delete that folder and prepare the data set again"
        raise DataError(where, found, "whole files", remedy) from error
    if len(shapes) != 1:
        found = f"{len(shapes)} different shapes of images in {split!r}"
        if shapes:
            found += f", from {min(shapes)} to {max(shapes)}"
        remedy = "write them into a folder, and load that with size=(height, width)"
        raise DataError(where, found, "images of one shape", remedy)
    # The feature's own layout.
    where_of_both = (f"{where} ({split})",) * 2
    return as_split(images, np.array(labels), where_of_both, channels_last=True)


def _room_for(image: np.ndarray, count: int, where: str) -> np.ndarray:
    """An array for so many images like one."""
    remedy = "take a smaller data set, or a machine with more memory"
    what = f"{counted(count, 'image')} of shape {image.shape}"
    require_memory(count * image.nbytes, where, what, remedy)
    return np.empty((count, *image.shape), image.dtype)


def _summary(error: Exception) -> str:
    """The kind of an error and the first line of its message."""
    lines = str(error).strip().splitlines()
    return ": ".join([type(error).__name__, *lines[:1]])
