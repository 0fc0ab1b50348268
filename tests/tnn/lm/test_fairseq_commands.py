"""fairseq's own commands with the plugin: those of the README by name, and what numpy 2 broke."""

import importlib.metadata
import re
import shlex
import subprocess
import sys

import pytest

pytest.importorskip("fairseq", reason="fairseq is not installed, see README: Installing")

import torch

from tests.e2e.test_readme import blocks, commands, is_python
from tests.tnn.lm.conftest import FORK, ROOT
from tnn.lm.checkpoint import DECODER, load
from tnn.lm.generate import DecoderLM, generate, sampler

README = "tnn/README.md"
OURS = {"tnn/data/data-bin/wikitext-103": str(FORK / "data-bin"),
        "tnn/checkpoints/lm/tnn_v2_decay_99_pre/checkpoint_best.pt":
            str(FORK / "alm_fork_checkpoint.pt"),
        "tnn/checkpoints/lm/tnn_v2_decay_99_pre": str(FORK), "checkpoint_best.pt":
            "alm_fork_checkpoint.pt", "tnn/fairseq_plugin": str(ROOT / "tnn/fairseq_plugin")}
DOCUMENTED = {command.split()[0]: command for command in commands(README)
              if command.startswith("fairseq-")}
PROMPTS = ["w01 w02 w03", "w07"]


def fairseq_command(server, name, folder, *more):
    """The README's command of that name, on the fork's checkpoint and words in place of BPE."""
    words = [OURS.get(word, word) for word in shlex.split(DOCUMENTED[name])[1:]]
    for flag in ("--bpe", "--gpt2-encoder-json", "--gpt2-vocab-bpe"):
        if flag in words:
            del words[(at := words.index(flag)):at + 2]
    if "--input" in words:
        (folder / "prompts.txt").write_text("".join(f"{line}\n" for line in PROMPTS))
    entry, = importlib.metadata.entry_points(group="console_scripts", name=name)
    ended = server.run(entry.module, [*words, "--num-workers", "0", "--cpu", *more], folder,
                       call=entry.attr)
    assert ended.code == 0, ended.err[-3000:]
    assert "Traceback" not in ended.out + ended.err
    return ended.out


def test_every_documented_command_is_run_here():
    assert set(DOCUMENTED) == {"fairseq-eval-lm", "fairseq-generate", "fairseq-interactive"}


@pytest.fixture(scope="module")
def model():
    model, task = load(str(FORK / "alm_fork_checkpoint.pt"), str(FORK / "data-bin"), DECODER)
    return DecoderLM(model), task


def greedy(model, prompt, count):
    """The prompt and what generate.py adds to it, up to the first end of a line."""
    decoder, task = model
    words = task.source_dictionary
    ids = torch.tensor([[words.eos(), *map(words.index, prompt.split())]])
    out = generate(decoder, ids, count, sampler(0, 1), "full")[0, 1:].tolist()
    return words.string(out[:out.index(words.eos())] if words.eos() in out else out)


def sentence_losses(model):
    """(sum of the losses in nats, number of tokens) of the test set, one sentence at a time."""
    from fairseq.data import data_utils
    decoder, task = model
    eos, total, count = task.source_dictionary.eos(), 0.0, 0
    for line in data_utils.load_indexed_dataset(f"{FORK}/data-bin/test", task.source_dictionary):
        inputs = torch.cat([torch.tensor([eos]), line[:-1].long()])[None]
        logits = decoder(inputs)[0].detach()
        total += torch.nn.functional.cross_entropy(logits, line.long(), reduction="sum").item()
        count += len(line)
    return total, count


def test_fairseq_eval_lm_with_sample_break_mode_eos(fairseq, model, tmp_path):
    assert "--sample-break-mode eos" in DOCUMENTED["fairseq-eval-lm"]
    out = fairseq_command(fairseq, "fairseq-eval-lm", tmp_path)
    total, count = sentence_losses(model)
    perplexity = float(re.search(r"Perplexity: ([\d.]+)", out)[1])
    assert perplexity == pytest.approx(torch.tensor(total / count).exp().item(), abs=0.006)


def test_fairseq_generate(fairseq, model, tmp_path):
    """Greedily it is generate.py."""
    out = fairseq_command(fairseq, "fairseq-generate", tmp_path, "--beam", "1", "--max-len-b", "9")
    found = dict(re.findall(r"^H-(\d+)\t\S+\t(.*)$", out, re.MULTILINE))
    assert len(found) == 80
    sources = dict(re.findall(r"^S-(\d+)\t(.*)$", out, re.MULTILINE))
    prefix = int(re.search(r"--prefix-size (\d+)", DOCUMENTED["fairseq-generate"])[1])
    for number in ("0", "7", "79"):
        words = sources[number].split()[:prefix]
        assert found[number] == greedy(model, " ".join(words), 9 - len(words))


def test_fairseq_interactive(fairseq, model, tmp_path):
    out = fairseq_command(fairseq, "fairseq-interactive", tmp_path, "--beam", "1", "--max-len-b",
                          "9")
    found = dict(re.findall(r"^H-(\d+)\t\S+\t(.*)$", out, re.MULTILINE))
    assert found == {str(i): greedy(model, prompt, 9 - len(prompt.split()))
                     for i, prompt in enumerate(PROMPTS)}


@pytest.mark.parametrize("damage", ["one bit", *(
    pytest.param(damage, marks=pytest.mark.slow)
    for damage in ("truncated", "empty", "a text", "other content"))])
def test_a_damaged_checkpoint_is_one_line(fairseq, tmp_path, damage):
    """Whichever command reads it, and also to go on from."""
    whole = (FORK / "alm_fork_checkpoint.pt").read_bytes()
    middle = len(whole) // 2
    path = tmp_path / "x.pt"
    path.write_bytes({"truncated": whole[:middle], "empty": b"", "a text": b"hello\n" * 99,
                      "one bit": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1:],
                      "other content": b""}[damage])
    if damage == "other content":
        torch.save({"weights": torch.zeros(3)}, path)
    data, plugin = str(FORK / "data-bin"), ["--user-dir", str(ROOT / "tnn/fairseq_plugin"), "--cpu"]
    train = ["--task", "language_modeling", "--arch", "tnn_v2_decay_99_pre", "--max-tokens", "64",
             "--tokens-per-sample", "16", "--restore-file", str(path), "--save-dir", "saves"]
    for module, more in (("eval_lm", ["--path", str(path)]), ("train", train),
                         ("generate", ["--path", str(path), "--task", "language_modeling"])):
        ended = fairseq.run(f"fairseq_cli.{module}", [data, *plugin, *more], tmp_path,
                            call="cli_main")
        assert "Traceback" not in ended.err, ended.err[-2000:]
        assert ended.code == 2, (module, ended.err[-500:])
        assert str(path) in ended.line


@pytest.fixture(scope="module")
def hub():
    """What the README's lines on the hub interface make."""
    text, = (block for block in filter(is_python, blocks(README)) if "from_pretrained" in block)
    text = re.sub(r"bpe=.*?\)", ")", text, flags=re.DOTALL)
    for theirs, ours in OURS.items():
        text = text.replace(f'"{theirs}"', repr(ours))
    found: dict = {}
    exec(text.replace(" The history of", "w01 w02 w03"), found)
    return found["hub"].eval()


@torch.no_grad()
def test_hub_sample_and_score(hub, model):
    assert hub.sample(PROMPTS, beam=1, max_len_b=9) == [
        greedy(model, prompt, 9 - len(prompt.split())) for prompt in PROMPTS]
    decoder, task = model
    words = task.source_dictionary
    ids = [words.eos(), *map(words.index, PROMPTS[0].split())]
    logs = decoder(torch.tensor([ids[:-1]]))[0].log_softmax(-1)
    expected = logs.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    torch.testing.assert_close(hub.score(PROMPTS[0])["positional_scores"], expected, atol=1e-4,
                               rtol=1e-4)


def test_names_that_numpy_has_dropped_are_there_with_the_plugin():
    code = "import tnn.fairseq_plugin, numpy as np; assert np.int is np.compat.long is int"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=ROOT,
                   capture_output=True)
