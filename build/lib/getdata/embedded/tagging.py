"""Tokens of the standard library's source and their syntactic roles, in two columns (.conll).

A tagger must tell apart what the same name does in different places.
"""

import ast
import hashlib
import io
import keyword
import pathlib
import sysconfig
import tokenize

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
