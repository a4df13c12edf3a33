"""Files that would take all memory or all time, and paths that lead to no file."""

import gzip
import io
import os
import socket
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from wpl_jax.common.host_memory import free_memory
from wpl_jax.data import FORMATS, load_images, load_text, open_images

LARGE = 2**26  # bytes that must not be unpacked


@pytest.fixture
def little_unpacked():
    """Checks that far less memory is taken than the large file would fill."""
    tracemalloc.start()
    yield
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < LARGE / 8


@pytest.fixture
def little_memory(monkeypatch):
    monkeypatch.setattr("wpl_jax.data.host_memory.free_memory", lambda: 1000)


def idx(array, shape=None):
    shape = shape or array.shape
    header = struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *shape)
    return header + array.tobytes()


@pytest.fixture
def mnist(tmp_path, random_images):
    """A folder of idx files, and the path of the compressed training images."""
    for stem, n in (("train", 12), ("t10k", 3)):
        labels = np.arange(n, dtype=np.uint8) % 3
        (tmp_path / f"{stem}-labels-idx1-ubyte").write_bytes(idx(labels))
    images = random_images(3, seed=1)[..., 0]
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(images))
    return tmp_path / "train-images-idx3-ubyte.gz"


def test_idx_that_unpacks_to_more_than_its_header_says(
    mnist, random_images, data_error, little_unpacked
):
    packer = zlib.compressobj(wbits=31)
    parts = [packer.compress(idx(random_images(12)[..., 0]))]
    parts += [packer.compress(bytes(2**20)) for _ in range(LARGE // 2**20)]
    mnist.write_bytes(b"".join([*parts, packer.flush()]))
    with data_error(mnist, "more than 256 bytes: it is too long", "again"):
        load_images("idx", mnist.parent)


@pytest.mark.parametrize("compressed", [True, False])
def test_idx_whose_header_says_more_than_it_can_hold(
    compressed, mnist, random_images, data_error
):
    content = idx(random_images(12)[..., 0], (2**32 - 1,) * 3)
    file = mnist if compressed else mnist.with_suffix("")
    file.write_bytes(gzip.compress(content) if compressed else content)
    with data_error(file, "bytes: it is truncated", "again"):
        load_images("idx", mnist.parent)


@pytest.mark.usefixtures("little_memory")
def test_idx_larger_than_memory(mnist, data_error):
    mnist.write_bytes(gzip.compress(idx(np.zeros((12, 10, 10), np.uint8))))
    with data_error(mnist, "shape (12, 10, 10), which takes 1.2 KiB", "more memory"):
        load_images("idx", mnist.parent)


def npz(file, member):
    """An archive whose training images are these bytes."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train_images.npy", member)
    return file


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("start", "found"),
    [
        (npy(np.zeros((2, 4, 5), np.uint8)), "its header says 168: shape (2, 4, 5)"),
        (b"neither numpy nor anything", "not an array"),
    ],
)
def test_npz_that_unpacks_to_more_than_its_header_says(
    start, found, tmp_path, data_error
):
    file = npz(tmp_path / "bomb.npz", start + bytes(LARGE))
    tracemalloc.start()
    with data_error(f"{file}[train_images]", found, ""):
        load_images("npz", file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < LARGE / 8


@pytest.mark.usefixtures("little_memory")
def test_npz_larger_than_memory(tmp_path, data_error):
    file = npz(tmp_path / "zeros.npz", npy(np.zeros((9, 10, 20), np.uint8)))
    with data_error(f"{file}[train_images]", "shape (9, 10, 20)", "more memory"):
        load_images("npz", file)


@pytest.fixture
def folder(tmp_path):
    greys = iter(range(0, 80, 10))
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            place = tmp_path / split / name
            place.mkdir(parents=True)
            Image.new("L", (20, 20), next(greys)).save(place / "0.png")
            Image.new("L", (20, 20), next(greys)).save(place / "1.png")
    return tmp_path


# Pillow only warns of the first of them.
@pytest.mark.filterwarnings("ignore:Image size:PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 20_000])
@pytest.mark.parametrize("known", [{}, {"size": (4, 4), "channels": 1}])
def test_image_of_too_many_pixels(side, known, folder, data_error):
    file = folder / "test" / "dog" / "0.png"
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    content = bytearray(file.read_bytes())
    content[12:33] = header + struct.pack(">I", zlib.crc32(header))
    file.write_bytes(content)
    with data_error(file, "too large", "make it smaller"):
        load_images("folder", folder, valid=2, **known)


@pytest.mark.usefixtures("little_memory")
def test_image_larger_than_memory(folder, monkeypatch, data_error):
    monkeypatch.setattr("wpl_jax.data.images.pixels._SMALL", 0)
    with data_error(folder, "an image of 20 x 20 pixels, which takes 2.7 KiB", "small"):
        load_images("folder", folder)


def test_images_larger_than_memory(folder, monkeypatch, data_error):
    data = open_images("folder", folder, valid=2, size=(10, 10), channels=1)
    monkeypatch.setattr("wpl_jax.data.host_memory.free_memory", lambda: 200)
    with data_error(folder / "test", "4 images of (10, 10, 1)", "smaller size"):
        np.asarray(data.test.images)


def test_images_of_other_kinds_start_no_programs(folder, data_error):
    file = folder / "test" / "dog" / "0.png"
    file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EOF\n")
    with data_error(file, "cannot identify image file", "remove it"):
        load_images("folder", folder)


@pytest.mark.usefixtures("little_memory")
def test_file_larger_than_memory(tmp_path, data_error):
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.txt").write_text(f"{name} " * 999)
    with data_error(tmp_path / "train.txt", "which takes 5.9 KiB", "more memory"):
        load_text("folder", tmp_path)


def pipe(path):
    os.mkfifo(path)


def dangling(path):
    path.symlink_to("nowhere")


def unix_socket(path):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


def loop(path):
    path.symlink_to(path)


SPECIAL = {
    pipe: "a pipe",
    dangling: "a symbolic link to nowhere, where nothing is",
    unix_socket: "a socket",
    loop: "cannot be read (Too many levels of symbolic links)",
}


@pytest.fixture
def short_path(tmp_path, monkeypatch):
    """A path in the working folder, as those of sockets have to be short."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"digits", "tfds"}))
@pytest.mark.parametrize("make", SPECIAL)
def test_what_is_no_file_or_folder(name, make, short_path, data_error):
    make(short_path.relative_to(short_path.parent))
    with data_error(short_path, SPECIAL[make], ""):
        load_images(name, short_path)


@pytest.mark.parametrize("make", SPECIAL)
def test_file_of_a_format_that_is_none(make, mnist, monkeypatch, data_error):
    monkeypatch.chdir(mnist.parent)
    make(mnist.relative_to(mnist.parent))
    with data_error(mnist, SPECIAL[make], ""):
        load_images("idx", mnist.parent)


@pytest.mark.parametrize("make", SPECIAL)
def test_text_that_is_no_file(make, tmp_path, monkeypatch, data_error):
    monkeypatch.chdir(tmp_path)
    for name in ("train", "test"):
        (tmp_path / f"{name}.txt").write_text(name)
    file = tmp_path / "valid.txt"
    make(file.relative_to(tmp_path))
    with data_error(file, SPECIAL[make], ""):
        load_text("folder", tmp_path)


@pytest.mark.parametrize("place", ["train", "train/cat", "train/cat/1.png"])
def test_links_to_nowhere_in_a_folder_of_images(place, folder, data_error):
    path = folder / place
    path.rename(folder / "elsewhere")
    path.symlink_to(folder / "nowhere")
    with data_error(path, "a symbolic link to", "make the link anew"):
        load_images("folder", folder)


def test_links_are_followed(folder):
    (folder / "train").rename(folder / "elsewhere")
    (folder / "train").symlink_to(folder / "elsewhere")
    assert len(load_images("folder", folder, valid=2).train.labels) == 2


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null"])
@pytest.mark.parametrize("name", ["npz", "idx"])
def test_devices(name, path, data_error):
    with data_error(path, "a device", ""):
        load_images(name, path)


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"digits", "tfds"}))
def test_homes_that_are_not_known(name, data_error):
    with data_error("~nobody-here/a", "does not know", "the folder's full path"):
        load_images(name, "~nobody-here/a")


def test_long_paths_make_short_messages(data_error):
    with pytest.raises(ValueError, match="File name too long") as caught:
        load_images("npz", "a" * 5000)
    assert len(str(caught.value)) < 1000


GIB = 2**30
MACHINE = {"proc/meminfo": f"MemTotal: 99 kB\nMemAvailable: {8 * 2**20} kB\n"}
GROUP = {
    "memory.max": f"{3 * GIB}\n",
    "memory.current": f"{2 * GIB}\n",
    "memory.stat": f"anon 7\nactive_file {GIB // 4}\ninactive_file {GIB // 4}\n",
}
OLD_GROUP = {
    "memory.limit_in_bytes": f"{3 * GIB}\n",
    "memory.usage_in_bytes": f"{GIB}\n",
    "memory.stat": f"total_active_file {GIB // 4}\ntotal_inactive_file 0\n",
}


def inside(folder, files):
    return {f"sys/fs/cgroup/{folder}{name}": text for name, text in files.items()}


SYSTEMS = {
    "none": ({}, None),
    "machine": (MACHINE, 8 * GIB),
    "group": (
        {**MACHINE, "proc/self/cgroup": "0::/job/step\n", **inside("job/", GROUP)},
        1.5 * GIB,
    ),
    "group without limit": (
        {
            **MACHINE,
            "proc/self/cgroup": "0::/job\n",
            **inside("job/", {**GROUP, "memory.max": "max\n"}),
        },
        8 * GIB,
    ),
    "container": (
        {**MACHINE, "proc/self/cgroup": "0::/\n", **inside("", GROUP)},
        1.5 * GIB,
    ),
    "old group": (
        {
            **MACHINE,
            "proc/self/cgroup": "9:name=systemd:/\n4:memory:/a\n0::/\n",
            **inside("memory/a/", OLD_GROUP),
        },
        2.25 * GIB,
    ),
    "old group without limit": (
        {
            **MACHINE,
            "proc/self/cgroup": "4:memory:/a\n",
            **inside(
                "memory/a/", {**OLD_GROUP, "memory.limit_in_bytes": f"{2**63 - 4096}"}
            ),
        },
        8 * GIB,
    ),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_free_memory_is_the_least_of_all_limits(name, tmp_path):
    files, expected = SYSTEMS[name]
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert free_memory(tmp_path) == expected


def test_free_memory_here():
    free = free_memory()
    assert free is None or 0 < free < 2**60


def test_limit_of_address_space(tmp_path, monkeypatch):
    import resource

    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "statm").write_text("100 50 20 1 0 30 0\n")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2**30, 2**30))
    pages = 100 * os.sysconf("SC_PAGE_SIZE")
    assert free_memory(tmp_path) == 2**30 - pages
