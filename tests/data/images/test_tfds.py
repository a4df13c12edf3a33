"""TensorFlow Datasets: data sets really written to disk, and mocked ones."""

import http.server
import json
import socket
import threading

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from wpl_jax.data import load_images, network
from wpl_jax.data.images import tfds as reader


class WplStripes(tfds.core.GeneratorBasedBuilder):
    """Images of one grey value, which says the split and the example.

    Given to tensorflow-datasets as Pillow's images, since it encodes arrays with
    TensorFlow.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "for tests"}  # noqa: RUF012
    LABELS = tfds.features.ClassLabel(names=["cat", "dog"])
    SHAPE = (4, 5, 1)
    SPLITS = (("train", 0, 12), ("test", 100, 4))

    def _info(self):
        image = tfds.features.Image(shape=self.SHAPE)
        features = {"image": image, "label": self.LABELS}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples(*span) for name, *span in self.SPLITS}

    def _generate_examples(self, start, count):
        for i in range(count):
            yield i, {"image": self._image(start + i), "label": i % 2}

    def _image(self, value):
        return Image.new("L", (5, 4), value)


class WplStripesWithValidation(WplStripes):
    SPLITS = (*WplStripes.SPLITS, ("validation", 200, 6))


class WplStripesOfSizes(WplStripes):
    SHAPE = (None, None, 1)

    def _image(self, value):
        return Image.new("L", (5, 4 + value % 2), value)


class WplStripesWithNumbers(WplStripes):
    LABELS = np.int64


class WplStripesWithoutPackage(WplStripes):
    def _split_generators(self, dl_manager):
        raise ModuleNotFoundError("No module named 'x'\nat all", name="x")


class WplStripesWithoutServer(WplStripes):
    def _split_generators(self, dl_manager):
        raise ConnectionError


tfds.disable_progress_bar()


@pytest.fixture
def online(monkeypatch):
    """The network seems to be there."""
    monkeypatch.setattr(reader, "answers", lambda url: True)


@pytest.fixture
def offline(monkeypatch):
    """The network is not asked, and gives no answer."""
    monkeypatch.setattr(reader, "answers", lambda url: False)


def _prepare(name, folder):
    builder = tfds.builder(name, data_dir=folder, file_format="array_record")
    builder.download_and_prepare()
    return builder.data_path


def test_prepared_on_disk(tmp_path, offline):
    folder = _prepare("wpl_stripes", tmp_path)
    data = load_images("tfds", "wpl_stripes", data_dir=tmp_path, valid=2)
    assert data.class_names == ("cat", "dog")
    assert data.image_shape == (4, 5, 1)
    assert str(folder) in data.source
    values = data.test.images[:, 3, 4, 0]
    assert sorted(values) == [100, 101, 102, 103]
    np.testing.assert_array_equal(data.test.labels, values % 2)
    assert data.valid.labels.tolist() == [0, 1]
    values = [*data.train.images[:, 0, 0, 0], *data.valid.images[:, 0, 0, 0]]
    assert sorted(values) == list(range(12))


def test_images_that_do_not_fit_into_memory(tmp_path, offline, data_error, monkeypatch):
    """12 images of 20 bytes; what is decoded first is one of them."""
    _prepare("wpl_stripes", tmp_path)
    for free in (240, 239):
        monkeypatch.setattr("wpl_jax.data.host_memory.free_memory", lambda f=free: f)
        if free == 240:
            load_images("tfds", "wpl_stripes", data_dir=tmp_path, valid=2)
            continue
        with data_error("tfds wpl_stripes", "takes 240 bytes", "smaller data set"):
            load_images("tfds", "wpl_stripes", data_dir=tmp_path, valid=2)


def test_prepares_what_is_not_on_disk(tmp_path, online):
    data = load_images("tfds", "wpl_stripes", data_dir=tmp_path, valid=2)
    assert len(data.test.labels) == 4
    assert list(tmp_path.glob("wpl_stripes/1.0.0/*.array_record*"))


def test_splits(tmp_path, data_error):
    name = "wpl_stripes_with_validation"
    _prepare(name, tmp_path)

    def sizes(**options):
        data = load_images("tfds", name, data_dir=tmp_path, valid=3, test=2, **options)
        return [len(split.labels) for split in (data.train, data.valid, data.test)]

    assert sizes() == [12, 6, 4]
    assert sizes(test_split="validation") == [9, 3, 6]
    assert sizes(test_split=None) == [10, 6, 2]
    assert sizes(valid_split="test", test_split=None) == [10, 4, 2]
    assert sizes(train_split="test", test_split="train", valid_split="validation")
    where = f"tfds {name} in {tmp_path}"
    with data_error(where, "no split 'val'", "set train_split"):
        sizes(valid_split="val")
    with data_error(where, "a split twice", "test_split=None"):
        sizes(train_split="test")


def test_mocked_mnist(online):
    with tfds.testing.mock_data(num_examples=200):
        # Mocked splits are all of the same images, which is refused.
        data = load_images("tfds", "mnist", valid=0.1, test_split=None)
    assert data.image_shape == (28, 28, 1)
    assert data.num_classes == 10
    sizes = [len(split.labels) for split in (data.train, data.valid, data.test)]
    assert sizes == [144, 16, 40]


def test_mocked_over_metadata_on_disk(tmp_path, offline, data_error):
    """With metadata, a mocked data set counts as prepared and has its splits."""
    _prepare("wpl_stripes_with_validation", tmp_path)
    with (
        tfds.testing.mock_data(num_examples=30, data_dir=str(tmp_path)),
        data_error("tfds", "all 30 valid images also in train", "in no other split"),
    ):
        load_images("tfds", "wpl_stripes_with_validation")


def test_neither_disk_nor_network(tmp_path, data_error, monkeypatch):
    def prepare(*args, **options):
        raise AssertionError("tensorflow-datasets tries, which it does for minutes")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", prepare)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but not listening: it refuses
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        with data_error(f"tfds mnist in {tmp_path}", url, f"--data_dir={tmp_path}"):
            load_images("tfds", "mnist", data_dir=tmp_path, download_url=url)


@pytest.mark.parametrize(
    ("name", "found", "remedy"),
    [
        ("wpl_stripes_without_package", "No module named 'x'", "install x, run `tfds"),
        ("wpl_stripes_without_server", "(ConnectionError)", "run `tfds build"),
    ],
)
def test_preparing_fails(name, found, remedy, tmp_path, online, data_error):
    with data_error(f"tfds {name} in {tmp_path}", found, remedy):
        load_images("tfds", name, data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "found", "remedy"),
    [
        ("mnits", "no data set of that name", "mnist"),
        ("qqqqqqqqqqqqqqq", "no data set of that name", "list_builders"),
        ("mnist:9.9.9", "AssertionError", "correct the name"),
        ("mnist/no_config", "ValueError", "correct the name"),
    ],
)
def test_unknown_name(name, found, remedy, tmp_path, data_error):
    with data_error(f"tfds {name} in {tmp_path}", found, remedy):
        load_images("tfds", name, data_dir=tmp_path)


def test_prepared_in_another_format(tmp_path, data_error):
    folder = _prepare("wpl_stripes", tmp_path)
    info = folder / "dataset_info.json"
    content = json.loads(info.read_text()) | {"fileFormat": "tfrecord"}
    info.write_text(json.dumps(content))
    with data_error(f"tfds wpl_stripes in {folder}", "tfrecord", "data_dir=NEW"):
        load_images("tfds", "wpl_stripes", data_dir=tmp_path)


def test_missing_shard(tmp_path, data_error):
    folder = _prepare("wpl_stripes", tmp_path)
    (shard,) = folder.glob("*-test.array_record*")
    shard.unlink()
    with data_error(f"tfds wpl_stripes in {folder}", "split 'test'", "delete"):
        load_images("tfds", "wpl_stripes", data_dir=tmp_path)


def test_images_of_several_sizes(tmp_path, data_error):
    folder = _prepare("wpl_stripes_of_sizes", tmp_path)
    found = "2 different shapes of images in 'train', from (4, 5, 1) to (5, 5, 1)"
    with data_error(f"tfds wpl_stripes_of_sizes in {folder}", found, "folder"):
        load_images("tfds", "wpl_stripes_of_sizes", data_dir=tmp_path)


def test_features(tmp_path, data_error):
    folder = _prepare("wpl_stripes_with_numbers", tmp_path)
    name = "wpl_stripes_with_numbers"
    with data_error(f"tfds {name} in {folder}", "no feature 'foto'", "image_key"):
        load_images("tfds", name, data_dir=tmp_path, image_key="foto")
    found = "no feature 'label' of type ClassLabel, but image (Image), label ("
    with data_error(f"tfds {name} in {folder}", found, "label_key"):
        load_images("tfds", name, data_dir=tmp_path)


class _Refusal(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_error(403)

    def log_message(self, *args):
        pass


def test_a_server_that_answers():
    with http.server.HTTPServer(("127.0.0.1", 0), _Refusal) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert network.answers(f"http://127.0.0.1:{server.server_port}/")
        thread.join()


def test_a_server_that_says_nothing(monkeypatch):
    limits, urlopen = [], network.urllib.request.urlopen

    def opened(*args, timeout):
        limits.append(timeout)
        return urlopen(*args, timeout=timeout)

    monkeypatch.setattr(network.urllib.request, "urlopen", opened)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        assert not network.answers(url, limit=0.2)  # It would else wait for ever.
    assert limits == [0.2]


def test_a_name_whose_lookup_hangs(monkeypatch):
    released, ended = threading.Event(), threading.Event()

    def hang(*args, **kwargs):
        released.wait(30)
        ended.set()
        raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    assert not network.answers("http://nowhere.invalid/", limit=0.2)
    assert not ended.is_set()  # It did not wait for the lookup.
    released.set()


@pytest.mark.parametrize("url", ["not a url", "http://127.0.0.1:1/"])
def test_what_cannot_be_reached(url):
    assert not network.answers(url)
