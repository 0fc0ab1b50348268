"""Texts to fairseq's binary form: GPT-2 byte pairs, or whole words.

    ./getdata.sh wt103-raw gpt2-bpe
    bash tnn/prepare_lm_data.sh tnn/data/wikitext-103-raw      -> tnn/data/data-bin/wikitext-103-raw

The folder holds wiki.{train,valid,test}.raw, wiki.{train,valid,test}.tokens or
{train,valid,test}.txt, in UTF-8. The result is what fairseq's multiprocessing_bpe_encoder and
fairseq-preprocess make of it, byte for byte; it appears when it is complete, and what stood in its
place before keeps another name.
"""

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from harness import flags
from harness.endings import BadInput, bad_input, clear_up_on_signals, orderly_exit
from harness.home import home
from texts.words import refuse_wide

if TYPE_CHECKING:
    from fairseq.data import Dictionary
    from fairseq.examples.roberta.multiprocessing_bpe_encoder import MultiprocessingEncoder

TNN = home(str(Path(__file__).parent))
SPLITS = ("train", "valid", "test")
NAMES = ("wiki.{}.raw", "wiki.{}.tokens", "{}.txt")
MARK = "prepared.json"   # says that a folder is of this script, and what it was made of
RESULT = {f"{split}.{ending}" for split in SPLITS for ending in ("bin", "idx")} | {
    "dict.txt", MARK, "preprocess.log"}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = flags.parser("Texts to fairseq's binary form", prog="prepare_lm_data.sh")
    p.add_argument("text", metavar="TEXT", help="folder with the three texts")
    p.add_argument("out", metavar="OUT", nargs="?",
                   help="folder to make (None: tnn/data/data-bin/ and the name of TEXT)")
    p.add_argument("--bpe", metavar="DIR",
                   default=os.environ.get("BPE_DIR", str(TNN / "data/gpt2-bpe")),
                   help="encoder.json, vocab.bpe, dict.txt ($BPE_DIR); without them: whole words")
    p.add_argument("--dict", metavar="FILE", default=os.environ.get("DICT"),
                   help="dictionary, or `build`: from the training text ($DICT; None: that of "
                        "--bpe)")
    p.add_argument("--workers", type=int, metavar="N",
                   default=os.environ.get("WORKERS", os.cpu_count() or 1),
                   help="processes ($WORKERS)")
    args = flags.parse(p, argv)
    flags.check(p, args, positive=("workers",))
    return args


# ------------------------------------------------------------------------------ what is refused
def find_texts(folder: Path) -> dict[str, Path]:
    """The file of each split. Raises BadInput naming what is missing, empty or not UTF-8."""
    if not folder.is_dir():
        raise BadInput(f"there is no folder {folder}")
    texts = {}
    for split in SPLITS:
        names = [name.format(split) for name in NAMES]
        found = [folder / name for name in names if (folder / name).is_file()]
        if not found:
            raise BadInput(f"no {names[0]}, {names[1]} or {names[2]} in {folder}")
        texts[split] = found[0]
    for path in texts.values():
        check_text(path)
    return texts


def check_text(path: Path) -> None:
    """Raises BadInput unless the file holds words in UTF-8."""
    words = False
    with bad_input():
        refuse_wide(path)
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                words |= bool(line.decode("utf-8-sig" if number == 1 else "utf-8").strip())
            except UnicodeDecodeError as error:
                raise BadInput(f"{path}, line {number}: not UTF-8 ({error.reason} at byte "
                               f"{error.start}): convert it, for instance with iconv") from error
    if not words:
        raise BadInput(f"{path} is empty: every split needs text")


def check_place(text: Path, out: Path) -> None:
    """Raises BadInput if OUT is TEXT, one lies in the other, or OUT is something of the user's."""
    source, target = text.resolve(), out.resolve()
    if source == target or source in target.parents or target in source.parents:
        raise BadInput(f"OUT {out} must lie apart from the texts in {text}: give another folder")
    if out.is_dir():
        foreign = sorted(p.name for p in out.iterdir() if p.name not in RESULT)
        if foreign:
            raise BadInput(f"OUT {out} holds other files ({foreign[0]}): give a new folder")
    elif os.path.exists(out):
        raise BadInput(f"OUT {out} is not a folder")


# ------------------------------------------------------------------------------------- the work
def encode(source: Path, target: Path, bpe: Path | None, workers: int) -> None:
    """One line of byte pairs (or, without `bpe`, the same words) per line. A byte order mark at the
    beginning is no part of the text."""
    with source.open(encoding="utf-8-sig") as lines, \
            target.open("w", encoding="utf-8", newline="\n") as out:
        if bpe is None:
            shutil.copyfileobj(lines, out)
            return
        from fairseq.examples.roberta.multiprocessing_bpe_encoder import MultiprocessingEncoder
        encoder = MultiprocessingEncoder(argparse.Namespace(
            encoder_json=str(bpe / "encoder.json"), vocab_bpe=str(bpe / "vocab.bpe"),
            keep_empty=True))
        with mapping(encoder, workers) as encoded:
            out.writelines(f"{line}\n" for _, (line,) in encoded([line] for line in lines))


class mapping:
    """encoder.encode_lines over many lines, in order: in this process, or in a pool of them."""

    def __init__(self, encoder: "MultiprocessingEncoder", workers: int):
        self.encoder, self.workers, self.pool = encoder, workers, None

    def __enter__(self):
        if self.workers == 1:
            self.encoder.initializer()
            return lambda lines: map(self.encoder.encode_lines, lines)
        from multiprocessing import Pool
        self.pool = Pool(self.workers, initializer=self.encoder.initializer)
        return lambda lines: self.pool.imap(self.encoder.encode_lines, lines, 1000)

    def __exit__(self, *_) -> None:
        if self.pool:
            self.pool.terminate()


def dictionary_of(args: argparse.Namespace, bpe: Path | None, train: Path) -> "Dictionary":
    """The dictionary given, that of the byte pairs, or one of all words of the training text."""
    from fairseq.data import Dictionary
    from fairseq.tasks import LegacyFairseqTask
    given = args.dict or (str(bpe / "dict.txt") if bpe else "build")
    if given != "build":
        check_dictionary(given)
        try:
            return Dictionary.load(given)
        except Exception as error:  # fairseq raises ValueError, bare Exceptions and others
            raise BadInput(f"{given} is no dictionary of fairseq: {error}") from error
    return LegacyFairseqTask.build_dictionary([str(train)], workers=args.workers)


def check_dictionary(given: str | None) -> None:
    """Raises BadInput unless --dict is a file, or a word for none."""
    if given and given != "build" and not Path(given).is_file():
        raise BadInput(f"no dictionary {given}: ./getdata.sh gpt2-bpe, or DICT=build to make one "
                       "from the training text")


def prepare(args: argparse.Namespace, texts: dict[str, Path], part: Path) -> None:
    """Puts the result into the folder `part`. Imports fairseq, which takes seconds, so only once
    the texts are known to be good."""
    logging.disable(logging.INFO)  # fairseq's remarks on other tasks' packages
    from fairseq.binarizer import FileBinarizer, VocabularyDatasetBinarizer

    from harness.inputs import digest_of
    bpe: Path | None = Path(args.bpe)
    if not all((bpe / name).is_file() for name in ("encoder.json", "vocab.bpe")):
        print(f"tnn: no encoder.json and vocab.bpe in {bpe} (./getdata.sh gpt2-bpe): whole words",
              file=sys.stderr)
        bpe = None
    with tempfile.TemporaryDirectory(dir=part.parent) as folder:
        for split, path in texts.items():
            encode(path, Path(folder) / split, bpe, args.workers)
        dictionary = dictionary_of(args, bpe, Path(folder) / "train")
        dictionary.save(str(part / "dict.txt"))
        for split in SPLITS:
            summary = FileBinarizer.multiprocess_dataset(
                str(Path(folder) / split), "mmap", VocabularyDatasetBinarizer(dictionary),
                str(part / split), vocab_size=len(dictionary), num_workers=args.workers)
            print(f"{split}: {summary.num_seq} lines, {summary.num_tok} tokens, "
                  f"{summary.replaced_percent:.3g} % unknown")
    facts = {"texts": {path.name: digest_of(path) for path in texts.values()},
             "dictionary": len(dictionary), "byte_pairs": bpe is not None}
    (part / MARK).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to make the data in, on the disk of `out`; afterwards they are `out`. A link stays:
    it may lead to another disk. Raises BadInput if nothing can be made there."""
    out = Path(os.path.realpath(out)) if out.is_symlink() else out
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        hidden = tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.")
    except OSError as error:
        raise BadInput(f"{out}: {error.strerror}: {error.filename}") from error
    with hidden as folder:
        part = Path(folder) / "data"
        part.mkdir()
        yield part
        put_in_place(part, out)


def put_in_place(part: Path, out: Path) -> None:
    """Renames the finished folder; one that is there already is kept as OUT.old, OUT.old2, ..."""
    if out.is_dir() and not any(out.iterdir()):
        out.rmdir()
    if out.is_dir():
        aside = next(path for n in chain([""], count(2))
                     if not os.path.lexists(path := out.with_name(f"{out.name}.old{n}")))
        out.rename(aside)
        print(f"{out} is of an earlier time: kept as {aside}")
    part.rename(out)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    clear_up_on_signals()
    with orderly_exit("prepare_lm_data.sh"):
        text = Path(args.text)
        out = Path(args.out or TNN / "data/data-bin" / text.resolve().name)
        check_place(text, out)
        check_dictionary(args.dict)
        texts = find_texts(text)
        with new_folder(out) as part:
            prepare(args, texts, part)
        print(f"prepared: {out}")


if __name__ == "__main__":
    main()
