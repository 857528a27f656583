"""A page of Markdown as a script: its files written, its Python run, its commands given, its messages compared.

A page is run in one process, which imports PyTorch and the OpenMMLab packages once and forks for every step:
`python pages.py PAGE FOLDER WORDS`, WORDS being JSON: placeholder -> what stands for it.

- A block of Python whose first line is a comment with a file's name, `# mine.py`, is written as that file; any other
  is run.
- Of a block of bash, `bestiary ...` and `python FILE ...` are run, with what keeps them small; other commands are
  looked at: the scripts that they name are there, and `tools/train.py` and `tools/test.py` take their arguments.
- A block of text behind a block of bash is what its last command says: every line must be in the output, `...` standing
  for anything; a line that begins with `error:` or `mistake:` means exit status 1.
"""

import argparse
import contextlib
import importlib
import json
import os
import re
import runpy
import shlex
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOADERS = [
    f"{kind}_dataloader.{key}" for kind in ("train", "val") for key in ("num_workers=0", "persistent_workers=False")
]
QUICK = ["train_cfg.max_epochs=1", "train_cfg.val_interval=1", *LOADERS]
# ImageNet's weights would be fetched, and are of a network of 12 M parameters.
OWN = ["model.backbone.init_cfg=None", "train_dataloader.batch_size=1"]
SMALL = {
    "ablate": ["--mixers", "identity"],
    "benchmark": ["--seconds", "0.5"],
    "check": ["--pictures", "1", "--cfg-options", "model.backbone.init_cfg=None"],
    "data digits": ["--train", "2", "--val", "2", "--copies", "1"],
}
OTHERS = ("pip", "torchrun", "srun", "sbatch", "git", "export")  # looked at, not run


def blocks(text: str) -> list[tuple[str, str]]:
    """Language and content of the fenced blocks, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def commands(block: str) -> list[list[str]]:
    """The words of the commands of a block of bash, without comments; a backslash joins lines."""
    lines = block.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def forked(action: Callable[[], int | None], folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Run in a process of its own; its exit status, and what it wrote."""
    log = folder / ".output"
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.chdir(folder)
            os.environ.update(environment)
            sys.path.insert(0, str(folder))
            with log.open("w") as stream:
                for number in (1, 2):
                    os.dup2(stream.fileno(), number)
                sys.stdout = sys.stderr = os.fdopen(1, "w", closefd=False)
                try:
                    status = action() or 0
                except SystemExit as end:
                    status = end.code if isinstance(end.code, int) else int(end.code is not None)
                except BaseException:
                    traceback.print_exc()
                with contextlib.suppress(Exception):
                    sys.stdout.flush()
        finally:
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(ended), log.read_text(errors="replace")


def small(words: list[str]) -> list[str]:
    """A command with what keeps it small."""
    name = words[1]
    key = f"{name} {words[2]}" if name == "data" else name
    more = list(SMALL.get(key, []))
    if name == "train":
        changes = [*QUICK, *(OWN if "--data" in words else [])]
        if "--cfg-options" in words:
            at = words.index("--cfg-options") + 1
            return [*words[:at], *changes, *words[at:]]
        more = ["--cfg-options", *changes]
    return [*words, *more]


def give(words: list[str], folder: Path, places: dict[str, str]) -> tuple[int, str] | None:
    """Run one command; None if it was looked at alone.

    Raises:
        AssertionError: it names a script that is not there, or is of no kind that is known.
    """
    environment = {}
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        key, _, value = words.pop(0).partition("=")
        environment[key] = value
    words = [places.get(word, word) for word in words]
    if words[0] == "bestiary":
        from bestiary.tools import cli

        return forked(lambda: cli.main(small(words)[1:]), folder, environment)
    if words[0] == "python" and not words[1].startswith("-"):
        script = folder / words[1] if (folder / words[1]).is_file() else ROOT / words[1]
        if script.is_file() and not script.is_relative_to(ROOT / "tools"):

            def run() -> None:
                sys.argv = [str(script), *words[2:]]
                runpy.run_path(str(script), run_name="__main__")

            return forked(run, folder, environment)
    look_at(words, places)
    return None


def look_at(words: list[str], places: dict[str, str]) -> None:
    """A command that is not run: its scripts are there, and ours take their arguments."""
    assert words[0] in (*OTHERS, "python") or words[0].startswith("tools/"), words
    for index, word in enumerate(words):
        if word.startswith("tools/") and word.endswith((".sh", ".py")):
            assert (ROOT / word).is_file(), word
            if word in ("tools/train.py", "tools/test.py"):
                parse(word, words[index + 1 :])
        elif word.endswith(".txt"):
            assert (ROOT / word).is_file(), word


def parse(script: str, words: list[str]) -> None:
    """Whether a tool takes these arguments, by its own parser; nothing is run."""
    tool = importlib.import_module(f"bestiary.tools.{Path(script).stem}")

    class Parsed(BaseException):
        pass

    def stop(self, *args, **kwargs):
        argparse_parse(self, *args, **kwargs)
        raise Parsed

    argparse_parse = argparse.ArgumentParser.parse_args
    argparse.ArgumentParser.parse_args = stop
    try:
        tool.main(words)
    except Parsed:
        return
    except SystemExit as end:
        raise AssertionError(f"{script} does not take {shlex.join(words)}") from end
    finally:
        argparse.ArgumentParser.parse_args = argparse_parse
    raise AssertionError(f"{script} parsed nothing")


def fits(expected: str, output: str) -> bool:
    """Whether a line of a page stands in what a command wrote; `...` is anything, white space counts as one."""
    parts = [re.escape(" ".join(part.split())) for part in expected.split("...")]
    return re.search(".*".join(parts), " ".join(output.split())) is not None


def run_page(page: Path, folder: Path, places: dict[str, str]) -> list[str]:
    """Do what the page says, in its order; returns what was done, a line a step."""
    done, last = [], None
    for language, content in blocks(page.read_text(encoding="utf-8")):
        first = content.split("\n", 1)[0]
        if language == "python" and (named := re.fullmatch(r"# ([\w/]+\.(?:py|cpp))", first)):
            file = folder / named[1]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content, encoding="utf-8")
            done.append(f"wrote {named[1]}")
        elif language == "python":
            status, output = forked(lambda text=content: exec(text, {"__name__": "page"}), folder, {})
            assert status == 0, f"{page.name}:\n{content}\n{output}"
            done.append("ran Python")
        elif language == "bash":
            for words in commands(content):
                if last is not None:
                    assert last[1] == 0, f"{page.name}: {shlex.join(last[0])}\n{last[2]}"
                said = give(list(words), folder, places)
                last = None if said is None else (words, *said)
                done.append(f"{'looked at' if said is None else 'gave'} {shlex.join(words)}")
        elif language == "text":
            assert last is not None, f"{page.name}: a block of text follows a command that is run"
            words, status, output = last
            lines = [line for line in content.splitlines() if line.strip() and line.strip() != "..."]
            for line in lines:
                assert fits(line, output), f"{page.name}: {shlex.join(words)} does not say:\n{line}\nbut:\n{output}"
            assert status == int(any(line.startswith(("error:", "mistake:")) for line in lines)), output
            done.append("compared")
            last = None
    if last is not None:
        assert last[1] == 0, f"{page.name}: {shlex.join(last[0])}\n{last[2]}"
    return done


if __name__ == "__main__":
    for module in ("bestiary.tools.train", "mmdet.apis", "mmseg.apis"):  # what most commands import, once; ours first
        importlib.import_module(module)
    print("\n".join(run_page(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))))
