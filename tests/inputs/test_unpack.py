"""Archives unpack inside of their folder or not at all."""

import io
import os
import random
import tarfile
import zipfile

import pytest

from bestiary.errors import InputError
from bestiary.inputs import unpack as unpacking
from bestiary.inputs.unpack import unpack
from bestiary.tools.data import main


def tar_of(path, *members, mode="w"):
    """A tar file of (name, bytes), or of TarInfo."""
    with tarfile.open(path, mode) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return path


def zip_of(path, *members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members:
            packed.writestr(name, content)
    return path


def link(name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
def test_what_was_packed_comes_out(name, tmp_path):
    rng = random.Random(name)
    files = {f"d{i % 3}/é {i}.bin": rng.randbytes(rng.randrange(0, 3000)) for i in range(20)}
    pack = zip_of if name.endswith("zip") else tar_of
    mode = {} if name.endswith("zip") else dict(mode="w:" + name.partition(".tar")[2].lstrip("."))
    archive = pack(tmp_path / name, *files.items(), **mode)
    assert unpack(archive, tmp_path / "out") == (20, sum(map(len, files.values())))
    assert contents(tmp_path / "out") == files
    assert sorted(os.listdir(tmp_path)) == [name, "out"]
    os.umask(mask := os.umask(0))
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o777 & ~mask


def test_into_a_folder_that_is_there(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("old")
    unpack(zip_of(tmp_path / "a.zip", ("x/y", b"1")), tmp_path / "out")
    assert contents(tmp_path / "out") == {"mine": b"old", "x/y": b"1"}
    with pytest.raises(InputError, match="has 'mine' already"):
        unpack(zip_of(tmp_path / "b.zip", ("new", b"2"), ("mine", b"2")), tmp_path / "out")
    assert contents(tmp_path / "out") == {"mine": b"old", "x/y": b"1"}


def test_links_inside_are_kept(tmp_path):
    archive = tar_of(
        tmp_path / "a.tar",
        ("d/file", b"content"),
        link("d/deep/soft", "../file"),
        link("folder", "d"),
        link("hard", "d/file", tarfile.LNKTYPE),
    )
    unpack(archive, tmp_path / "out")
    out = tmp_path / "out"
    assert os.readlink(out / "d/deep/soft") == "../file" and (out / "d/deep/soft").read_bytes() == b"content"
    assert (out / "folder/file").read_bytes() == b"content" and (out / "hard").stat().st_nlink == 2


OUTSIDE = {
    "parent": [("../escaped", b"x")],
    "deep parent": [("a/b/../../../escaped", b"x")],
    "absolute": [("/tmp/escaped", b"x")],
    "backslash": [("..\\escaped", b"x")],
    "symlink": [link("l", "../escaped")],
    "absolute symlink": [link("l", "/etc")],
    "through a symlink": [link("l", ".."), ("l/escaped", b"x")],
    # lexically inside of the folder, in the end not
    "two symlinks": [("d/e/file", b""), link("d/e/up", "../.."), link("l", "d/e/up/../escaped")],
    "hard link": [link("l", "../escaped", tarfile.LNKTYPE)],
    "hard link to a symlink": [link("s", "d"), link("l", "s", tarfile.LNKTYPE)],
    "device": [link("null", "", tarfile.CHRTYPE)],
    "fifo": [link("pipe", "", tarfile.FIFOTYPE)],
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_what_leads_out_is_refused(case, tmp_path):
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    archive = tar_of(tmp_path / "a.tar", ("fine", b"1"), *OUTSIDE[case])
    with pytest.raises(InputError, match=r"a\.tar: .*(leads out of the folder|is a device|is a link to s, which)"):
        unpack(archive, folder / "out")
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert left == {"a.tar", "deep", "deep/er"}


def test_a_zip_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "SMALL", 2**20)
    archive = zip_of(tmp_path / "a.zip", *((f"zeros{i}", bytes(2**20)) for i in range(4)))
    assert archive.stat().st_size < 20_000
    with pytest.raises(InputError, match="zip bomb"):
        unpack(archive, tmp_path / "out")
    assert os.listdir(tmp_path) == ["a.zip"]


def test_a_size_that_lies_is_refused(tmp_path):
    archive = zip_of(tmp_path / "a.zip", ("zeros", bytes(2**20)))
    content = archive.read_bytes()
    archive.write_bytes(content.replace((2**20).to_bytes(4, "little"), (1000).to_bytes(4, "little")))
    with pytest.raises(InputError, match=r"a\.zip"):
        unpack(archive, tmp_path / "out")
    assert os.listdir(tmp_path) == ["a.zip"]


def test_a_full_disk_is_told_before(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "KEPT_FREE", 2**60)
    with pytest.raises(InputError, match=r"more unpacked than the disk of .* has free \(0.0 GiB\)"):
        unpack(zip_of(tmp_path / "a.zip", ("x", b"1")), tmp_path / "out")
    assert os.listdir(tmp_path) == ["a.zip"]


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.xz"])
def test_every_cut_is_noticed_and_leaves_nothing(name, tmp_path):
    rng = random.Random(0)
    members = [(f"{i}", rng.randbytes(5000)) for i in range(4)]
    if name == "a.zip":
        whole = zip_of(tmp_path / name, *members).read_bytes()
    else:
        whole = tar_of(tmp_path / name, *members, mode="w:" + name.partition(".tar")[2].lstrip(".")).read_bytes()
    for share in (0.0, 0.1, 0.5, 0.7):
        (tmp_path / name).write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(InputError, match="damaged|neither"):
            unpack(tmp_path / name, tmp_path / "out")
        assert os.listdir(tmp_path) == [name]


def test_twice_the_same_name(tmp_path):
    with pytest.raises(InputError, match="x is in it twice"):
        unpack(tar_of(tmp_path / "a.tar", ("x", b"1"), ("./x", b"2")), tmp_path / "out")


def test_by_the_command_line(tmp_path, capsys):
    archive = zip_of(tmp_path / "a.zip", ("x", bytes(2**20)))
    assert main(["unpack", str(archive), str(tmp_path / "out")]) == 0
    assert "1 files, 1.0 MiB" in capsys.readouterr().out
    assert main(["unpack", str(tmp_path / "none.zip"), str(tmp_path / "out")]) == 1
    assert main(["unpack", str(archive), str(archive)]) == 1
    told = capsys.readouterr().err
    assert "none.zip: no such archive" in told and "name a folder" in told
