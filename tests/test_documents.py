"""The documents tell the truth: their examples run, their links lead somewhere, their commands and options exist."""

import re
import shlex
import subprocess
import warnings
from pathlib import Path

import pytest
import typer

from richrep.cli.main import app

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")
RUNNABLE = re.findall(r"<!-- runnable -->\n```python\n(.*?)```", README, flags=re.DOTALL)
# Folders that lie on one machine only. Written as an alternation, so that this file does not match itself.
LOCAL_PATH = re.compile(r"(?<![\w.:/-])/(?:home|Users|root|work)/[\w.]+")


def _command_options() -> dict[str, set[str]]:
    """Command -> its options; "" -> those of richrep itself."""
    group = typer.main.get_command(app)
    owners = {"": group} | group.commands
    help_options = {"-h", "--help"}
    return {
        name: {option for given in owner.params for option in (*given.opts, *given.secondary_opts)} | help_options
        for name, owner in owners.items()
    }


OPTIONS = _command_options()


def _code_lines(text: str) -> list[str]:
    """Shell lines of the fenced blocks, continuation lines joined, and inline code; without comments."""
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line.partition("#")[0].strip() for line in [*lines, *inline]]


def _richrep_calls(text: str) -> list[list[str]]:
    """Words after `richrep` of every code line that calls it."""
    calls = [re.match(r"(?:\.venv/bin/)?richrep\s+(.+)", line) for line in _code_lines(text)]
    return [shlex.split(call[1]) for call in calls if call]


def _wrong_words(words: list[str]) -> list[str]:
    """What a call says that the command line does not know: the command, or options."""
    command = "" if words[0].startswith("-") else words[0]
    if command not in OPTIONS:
        return [command]
    return [word for word in words if word.startswith("-") and word != "-" and word not in OPTIONS[command]]


def test_the_readme_has_runnable_examples():
    assert len(RUNNABLE) >= 2
    assert "<!-- demo output -->" in README


@pytest.mark.parametrize("example", RUNNABLE, ids=lambda code: code.strip().splitlines()[2][:40])
def test_the_examples_of_the_readme_run_offline(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RICHREP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RICHREP_OFFLINE", "1")
    values: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(compile(example, "README.md", "exec"), values)
    if "both" in values:  # the comments beside the example
        assert values["both"].features.shape == (300, 128)
        assert values["both"].labels.shape == (300,)
    if "records" in values:
        names = [record.representation for record in values["records"]]
        assert names == ["random-resnet20", "random-resnet32", "cat(random-resnet20+random-resnet32)"]
        assert len(list((tmp_path / "runs").glob("*.json"))) == 3


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_relative_links_lead_to_files(document):
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    relative = [target for target in targets if target and not re.match(r"[a-z]+:", target)]
    assert [target for target in relative if not (document.parent / target).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_and_options_in_the_documents_exist(document):
    calls = _richrep_calls(document.read_text(encoding="utf-8"))
    wrong = [(" ".join(words), unknown) for words in calls if (unknown := _wrong_words(words))]
    assert wrong == []


def test_options_named_alone_in_the_readme_belong_to_some_command():
    named = {words[0] for line in _code_lines(README) if line.startswith("--") and (words := line.split())}
    assert "--own-head" in named
    assert named - set().union(*OPTIONS.values()) == set()


def test_the_readme_names_every_command():
    assert {words[0] for words in _richrep_calls(README)} >= {name for name in OPTIONS if name}


def test_a_made_up_command_or_option_is_found():
    assert _wrong_words(["prob", "-b", "x"]) == ["prob"]
    assert _wrong_words(["probe", "-b", "x", "--precison", "bf16", "--json", "-"]) == ["--precison"]
    assert _richrep_calls("`richrep probe -b x`\n```sh\nrichrep results \\\n  --csv -  # note\n```") == [
        ["results", "--csv", "-"],
        ["probe", "-b", "x"],
    ]


def test_every_environment_variable_the_library_reads_is_in_the_readme():
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    read = set(re.findall(r"""["'$](RICHREP_[A-Z_]+|HF_HUB_OFFLINE)""", sources))
    assert "RICHREP_HOME" in read
    assert {name for name in read if f"`{name}`" not in README} == set()


def test_no_committed_file_holds_a_path_of_one_machine():
    try:
        listed = subprocess.run(
            ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            capture_output=True,
            check=True,
        ).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs git and a checkout")
    found = []
    for name in filter(None, listed.split("\0")):
        try:
            text = (ROOT / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue
        found += [f"{name}: {match[0]}" for match in LOCAL_PATH.finditer(text)]
    assert found == []


def test_a_local_path_is_told_from_an_address_and_from_a_relative_path():
    home, web, relative = "/" + "home/someone", "https://example.org/" + "work/x", "../shared/" + "work/x"
    assert LOCAL_PATH.search(f"see {home} there")
    assert not LOCAL_PATH.search(web)
    assert not LOCAL_PATH.search(relative)
