"""enwik8 as awd-lstm-lm prepares it: split 90/5/5 and written as decimal numbers."""

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
