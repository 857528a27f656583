"""Videos in and out, through imageio and PyAV."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np

from ..errors import InputError
from .drawing import Picture

FPS = 25.0  # where a file does not say


def need_imageio(path: str | Path) -> None:
    """Ask that imageio and PyAV are there.

    Raises:
        InputError: one is not; says what to install.
    """
    missing = [name for name in ("imageio", "av") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"{path}: videos take {' and '.join(missing)}, not installed: pip install 'bestiary[video]'")


class Video:
    """A video file to read: `frames()`, `fps`, `count` (0 if the file does not say).

    Raises:
        InputError: it cannot be decoded; imageio is not there.
    """

    def __init__(self, path: str | Path) -> None:
        need_imageio(path)
        import imageio.v3 as iio

        self.path = Path(path)
        try:
            meta = iio.immeta(self.path, plugin="pyav", exclude_applied=False)
            count = iio.improps(self.path, plugin="pyav").n_images
        except Exception as error:  # PyAV has an error class for each of ffmpeg's
            raise self._broken(error) from error
        self.fps = float(meta.get("fps") or FPS)
        self.count = int(count) if count and np.isfinite(count) else 0

    def _broken(self, error: Exception) -> InputError:
        return InputError(f"{self.path}: cannot be decoded as a video ({type(error).__name__}: {error})")

    def frames(self) -> Iterator[Picture]:
        """(H, W, 3) RGB, one after another.

        Raises:
            InputError: a frame cannot be decoded.
        """
        import imageio.v3 as iio

        try:
            yield from iio.imiter(self.path, plugin="pyav")
        except (OSError, ValueError) as error:  # PyAV's errors are subclasses of these
            raise self._broken(error) from error


class VideoWriter:
    """Writes frames of one size as H.264 in an MP4 file; odd sizes get a line of pixels more.

    Use as a context manager. Raises InputError if the file cannot be written.
    """

    def __init__(self, path: str | Path, fps: float) -> None:
        import imageio.v3 as iio

        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = iio.imopen(self.path, "w", plugin="pyav")
            self.file.init_video_stream("libx264", fps=fps)
        except OSError as error:
            raise InputError(f"{path}: the video cannot be written ({error}); give another --out") from error

    def write(self, frame: Picture) -> None:
        """(H, W, 3) RGB."""
        height, width = frame.shape[:2]
        if height % 2 or width % 2:  # H.264 keeps colours at half the size
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        self.file.write_frame(np.ascontiguousarray(frame))

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType) -> None:
        self.file.close()
