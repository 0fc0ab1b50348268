"""Data sets that need no network, and the preparation of enwik8. getdata.py calls these builders.

Every builder takes the folder to fill and writes its files there; nothing runs at import.
pydoc       word corpus in the PTB format from the docstrings of the Python standard library
pydoc_char  the same text as characters, in the format of Mikolov's ptb.char.*.txt
tagging     tokens of the library's source and their syntactic roles, two columns (.conll)
digits      scikit-learn's 1,797 handwritten digits as one .npz with a train and a test part
listops     2,400 trees by tnn/lra/listops.py, in the Long Range Arena's format
pathfinder  2,000 images by tnn/lra/pathfinder.py, 32 x 32 pixels, in the Long Range Arena's layout
aan_small   pairs of passages of docstrings, of one module or of two, in the format of LRA's AAN
enwik8      a byte file split 90/5/5 and written as decimal numbers, as awd-lstm-lm did
"""

import ast
import collections
import hashlib
import inspect
import io
import keyword
import pathlib
import random
import re
import subprocess
import sys
import sysconfig
import tokenize
import warnings

SPLITS = ("train", "valid", "test")

# pydoc: the text differs between Python versions (other docstrings), never between two runs of one.

SKIPPED_FOLDERS = {
    "test", "tests", "idle_test", "idlelib", "lib2to3", "ensurepip", "turtledemo", "pydoc_data",
    "site-packages", "dist-packages", "__pycache__", "__phello__", "__pyrepl__",
}  # fmt: skip
MIN_COUNT = 2  # a word seen less often in train becomes <unk>
HELD_OUT = 0.05  # share of the tokens in valid, and in test
LARGEST_HELD_OUT = 0.02  # a module with more of the text than this always goes to train

WORD = r"[a-z_]+(?:\d+[a-z_]*)*"
TOKEN = re.compile(rf"{WORD}(?:['-]{WORD})*|\d+(?:[.,]\d+)*|->|[<>=!]=|\.\.\.|[^\w\s]")
SENTENCE_END = re.compile(r"(?<=[.!?:;])\s+")


def docstrings(source):
    """Return the docstrings of a module's source bytes in file order; none if it does not parse."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's strings
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    nodes.sort(key=lambda node: getattr(node, "lineno", 0))
    texts = (ast.get_docstring(node, clean=False) for node in nodes)
    return [inspect.cleandoc(text) for text in texts if text]


def sentences(docstring):
    """Yield the lists of tokens of a docstring's sentences, doctest lines left out."""
    for paragraph in re.split(r"\n\s*\n", docstring):
        lines = [line.strip() for line in paragraph.splitlines()]
        if any(line.startswith(">>>") for line in lines):
            lines = lines[: next(i for i, line in enumerate(lines) if line.startswith(">>>"))]
        for sentence in SENTENCE_END.split(" ".join(lines).lower()):
            tokens = TOKEN.findall(sentence)
            tokens = ["N" if token[0].isdigit() else token for token in tokens if token.isascii()]
            if sum(token[0].isalpha() for token in tokens) >= 2:
                yield tokens


def stdlib_docstrings():
    """Return {top-level module: docstrings} from the source files of this interpreter's library.

    Files are parsed, not imported. A docstring that was seen before is left out, so that no
    copied text stands both in train and in test.
    """
    root = pathlib.Path(sysconfig.get_paths()["stdlib"])
    seen, modules = set(), collections.defaultdict(list)
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).parts):
        parts = path.relative_to(root).parts
        if SKIPPED_FOLDERS.isdisjoint(parts) and not parts[0].startswith("config-"):
            for text in docstrings(path.read_bytes()):
                if text not in seen:
                    seen.add(text)
                    modules[parts[0].removesuffix(".py")].append(text)
    return dict(modules)


def stdlib_sentences():
    """Return {top-level module: the sentences of its docstrings}."""
    return {
        module: [tokens for text in texts for tokens in sentences(text)]
        for module, texts in stdlib_docstrings().items()
    }


def split_by_module(modules):
    """Return {split: sentences}; each module goes whole to one, in an order set by its name."""
    size = {name: sum(map(len, lines)) for name, lines in modules.items()}
    total = sum(size.values())
    filled = dict.fromkeys(SPLITS, 0)
    parts = {split: [] for split in SPLITS}
    for name in sorted(modules, key=lambda name: hashlib.sha256(name.encode()).hexdigest()):
        small = size[name] <= LARGEST_HELD_OUT * total
        open_splits = [s for s in ("valid", "test") if filled[s] < HELD_OUT * total and small]
        split = min(open_splits, key=filled.get, default="train")
        filled[split] += size[name]
        parts[split] += modules[name]
    return parts


def pydoc_lines():
    """Return {split: lines of text} with the words that are rare in train replaced by <unk>."""
    parts = split_by_module(stdlib_sentences())
    counts = collections.Counter(token for tokens in parts["train"] for token in tokens)
    known = {token for token, count in counts.items() if count >= MIN_COUNT}
    return {
        split: [" ".join(t if t in known else "<unk>" for t in tokens) for tokens in lines]
        for split, lines in parts.items()
    }


def pydoc(folder):
    """Write {train,valid,test}.txt: one sentence a line with a blank at both ends, as PTB has."""
    for split, lines in pydoc_lines().items():
        text = "".join(f" {line} \n" for line in lines)
        (folder / f"{split}.txt").write_text(text, encoding="utf-8", newline="\n")


def to_characters(lines):
    """Return lines in the PTB character format: `_` for a blank, a blank after every character."""
    text = "".join(line.strip().replace(" ", "_") + "\n" for line in lines)
    return "".join(character + " " for character in text)


def pydoc_char(folder):
    """Write the text of `pydoc` as characters."""
    for split, lines in pydoc_lines().items():
        path = folder / f"{split}.txt"
        path.write_text(to_characters(lines), encoding="utf-8", newline="\n")


# tagging: a tagger must tell apart what the same name does in different places.

TAGGED_LINES = {"valid": 600, "test": 600, "train": 5000}  # filled in this order, module by module
SHORTEST_LINE, LONGEST_LINE = 3, 60  # tokens


def name_roles(tree):
    """Return {(line, column): role} of the names in a syntax tree."""
    roles = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            role = "variable" if isinstance(node.ctx, ast.Load) else "target"
            roles.setdefault((node.lineno, node.col_offset), role)
        elif isinstance(node, ast.Attribute):
            place = (node.end_lineno, node.end_col_offset - len(node.attr))
            roles.setdefault(place, "attribute")
        elif isinstance(node, ast.arg):
            roles[node.lineno, node.col_offset] = "parameter"
        elif isinstance(node, ast.keyword):
            roles[node.lineno, node.col_offset] = "keyword_argument"
        if isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)):
            length = len(getattr(node.func, "attr", None) or node.func.id)
            place = (node.func.end_lineno, node.func.end_col_offset - length)
            roles[place] = "function" if isinstance(node.func, ast.Name) else "method"
    return roles


def role_of(token, before, roles):
    """Return the tag of a token that follows the token text `before`."""
    if token.type == tokenize.OP:
        return "bracket" if token.string in "()[]{}" else "operator"
    if token.type in (tokenize.NUMBER, tokenize.STRING):
        return "number" if token.type == tokenize.NUMBER else "string"
    if keyword.iskeyword(token.string):
        return "keyword"
    defined = {"def": "function_name", "class": "class_name"}
    return roles.get(token.start) or defined.get(before, "module")


def tagged_lines(source):
    """Yield the logical lines of a module's source text as lists of (token, tag)."""
    roles, line = name_roles(ast.parse(source)), []
    wanted = (tokenize.OP, tokenize.NUMBER, tokenize.STRING, tokenize.NAME)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NEWLINE:
            yield line
            line = []
        elif token.type in wanted:
            text = "<string>" if token.type == tokenize.STRING else token.string
            line.append((text, role_of(token, line[-1][0] if line else None, roles)))


def tagging(folder):
    """Write {train,valid,test}.conll: token, tab, role; an empty line after each logical line.

    Modules come in an order set by their names and go whole to one split; a line that was seen
    before is left out.
    """
    root, seen = pathlib.Path(sysconfig.get_paths()["stdlib"]), set()
    paths = sorted(root.glob("*.py"), key=lambda p: hashlib.sha256(p.name.encode()).hexdigest())
    sources = (path.read_text(encoding="utf-8") for path in paths)
    sources = (source for source in sources if source.isascii())  # ast counts bytes
    for split, wanted in TAGGED_LINES.items():
        lines = []
        while len(lines) < wanted and (source := next(sources, None)) is not None:
            for line in tagged_lines(source):
                if SHORTEST_LINE <= len(line) <= LONGEST_LINE and tuple(line) not in seen:
                    seen.add(tuple(line))
                    lines.append(line)
        text = "".join("".join(f"{token}\t{tag}\n" for token, tag in line) + "\n" for line in lines)
        (folder / f"{split}.conll").write_text(text, encoding="utf-8", newline="\n")


DIGITS_TRAIN = 1437  # the first 80 %; in file order, so most writers of the test part are new


def digits(folder):
    """Write digits.npz: {train,test}_images uint8 (n, 8, 8), values 0..16; {train,test}_labels.

    Raises ImportError if scikit-learn is not installed.
    """
    import numpy
    from sklearn.datasets import load_digits

    data = load_digits()
    images, labels = data.images.astype(numpy.uint8), data.target.astype(numpy.int64)
    numpy.savez(
        folder / "digits.npz",
        train_images=images[:DIGITS_TRAIN],
        train_labels=labels[:DIGITS_TRAIN],
        test_images=images[DIGITS_TRAIN:],
        test_labels=labels[DIGITS_TRAIN:],
    )


# Long Range Arena: small sets in its formats, never to be reported as its own

LRA = pathlib.Path(__file__).resolve().parent / "tnn" / "lra"


def run_generator(script, *flags):
    """Run a generator below tnn/lra. Raises OSError if it fails; it has said why."""
    command = [sys.executable, str(LRA / script), *flags]
    if code := subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
        raise OSError(f"{script} ended with status {code}")


def listops(folder):
    """Write basic_{train,val,test}.tsv with 2000, 200 and 200 trees."""
    run_generator("listops.py", f"--out={folder}", "--train=2000", "--val=200", "--test=200")


def pathfinder(folder):
    """Write pathfinder32/ with 2,000 images in 20 folders."""
    run_generator("pathfinder.py", f"--out={folder}", "--images=2000", "--per-folder=100")


PASSAGE = 1500  # characters, at least
PAIRS = {"train": 2000, "eval": 200, "test": 200}


def passages(texts):
    """Return docstrings joined to passages of at least PASSAGE characters, blanks made single."""
    found, waiting = [], ""
    for text in texts:
        waiting = f"{waiting} {' '.join(text.split())}".lstrip()
        if len(waiting) >= PASSAGE:
            found.append(waiting)
            waiting = ""
    return found


def aan_small(folder):
    """Write new_aan_pairs.{train,eval,test}.tsv: label, two ids, two texts as Python writes bytes.

    Half of the pairs are of one module (1.0), half of two (0.0). Every passage belongs to one
    split; modules with fewer than 20 passages are left out.
    """
    modules = {name: passages(texts) for name, texts in stdlib_docstrings().items()}
    modules = {name: found for name, found in modules.items() if len(found) >= 20}
    rng = random.Random(0)
    for place, (split, count) in enumerate(PAIRS.items()):
        # Of ten passages in a row the ninth is for eval, the tenth for test.
        own = {
            name: [(f"{name}{i}", text) for i, text in enumerate(found)
                   if max(i % 10 - 7, 0) == place]
            for name, found in modules.items()
        }  # fmt: skip
        with open(folder / f"new_aan_pairs.{split}.tsv", "w", encoding="utf-8") as file:
            for i in range(count):
                one, two = rng.sample(sorted(own), 2)
                pair = rng.sample(own[one], 2) if i % 2 else map(rng.choice, (own[one], own[two]))
                (id1, text1), (id2, text2) = pair
                fields = (float(i % 2), id1, id2, text1.encode(), text2.encode())
                file.write("\t".join(map(str, fields)) + "\n")


BLOCK = 1 << 20
DECIMAL = ["\n" if byte == 10 else str(byte) for byte in range(256)]


def write_decimal(source, nbytes, text_path, raw_path):
    """Copy nbytes from source to raw_path and, as decimal numbers, to text_path.

    Numbers and newlines are joined by single blanks, so a line reads `60 112 62 ` and the next one
    starts with a blank: the format of awd-lstm-lm's data/enwik8/prep_enwik8.py. Memory stays at a
    few blocks, whatever the size.
    """
    with open(text_path, "w", encoding="ascii", newline="\n") as text, open(raw_path, "wb") as raw:
        joint = ""
        while nbytes:
            block = source.read(min(BLOCK, nbytes))
            if not block:
                raise EOFError(f"{source.name} ended early")
            raw.write(block)
            text.write(joint + " ".join(map(DECIMAL.__getitem__, block)))
            joint, nbytes = " ", nbytes - len(block)


def enwik8(folder):
    """Split folder/enwik8: last 5 % test, the 5 % before valid, the rest train; then remove it.

    Writes {train,valid,test}.txt (decimal numbers) and {train,valid,test}.txt.raw (the bytes).
    """
    source_path = folder / "enwik8"
    total = source_path.stat().st_size
    held_out = total // 20  # 5,000,000 of enwik8's 100,000,000
    sizes = {"train": total - 2 * held_out, "valid": held_out, "test": held_out}
    with open(source_path, "rb") as source:
        for split, nbytes in sizes.items():
            path = folder / f"{split}.txt"
            write_decimal(source, nbytes, path, folder / f"{split}.txt.raw")
    source_path.unlink()


BUILDERS = {
    "pydoc": pydoc,
    "pydoc_char": pydoc_char,
    "tagging": tagging,
    "digits": digits,
    "listops": listops,
    "pathfinder": pathfinder,
    "aan_small": aan_small,
    "enwik8": enwik8,
}
