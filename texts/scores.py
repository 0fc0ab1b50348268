"""What a text costs under a model: per token, per sentence and in all.

A model is given as `Columns`: texts side by side, each from a zero state -> log p of every token
given those above it. Continuous text is one column, independent sentences of one length are some.

Notation: T rows, B columns, N tokens of a text, S sentences, V vocabulary.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.endings import BadInput
from texts.sentences import Text
from texts.vocabulary import names_of

# (T, B) int64 -> (T - 1, B): log-probabilities of the rows from the second on; nan: not predicted.
Columns = Callable[[Tensor], Tensor]
Names = Sequence[str] | Mapping[int, str]  # id -> token
AT_ONCE = 1 << 24         # log-probabilities of all words that a block holds: bounds the memory
SENTENCES_AT_ONCE = 64    # of one length


# ------------------------------------------------------------------------------- log-probabilities
def of_targets(log_p: Callable[[Tensor], Tensor], outputs: Tensor, targets: Tensor, words: int
               ) -> Tensor:
    """log_p(outputs)[target] for outputs (R, H) and targets (R,), some rows at a time: log_p makes
    (rows, V) of (rows, H). Returns (R,) float64 on the CPU."""
    rows = max(1, AT_ONCE // words)
    parts = [log_p(h).gather(1, w[:, None])[:, 0]
             for h, w in zip(outputs.split(rows), targets.split(rows), strict=True)]
    return torch.cat(parts).double().cpu()


def continuous(columns: Columns, text: Text) -> Tensor:
    """(N,) float64: the first token is not predicted (nan). Raises BadInput for a single token."""
    if len(text.ids) < 2:
        raise BadInput("a single empty line: nothing precedes it, so nothing is predicted; "
                       "--independent scores its end")
    return torch.cat([torch.full((1,), math.nan).double(), columns(text.ids[:, None])[:, 0]])


def independent(columns: Columns, text: Text, end: int) -> Tensor:
    """(N,) float64: each sentence from a zero state, behind `end`, the id of a line's end."""
    found = torch.full(text.ids.shape, math.nan, dtype=torch.float64)
    by_length = defaultdict(list)  # equal ones side by side: no padding, which would change sums
    for place in text.sentences():
        by_length[place.stop - place.start].append(place)
    for places in by_length.values():
        for first in range(0, len(places), SENTENCES_AT_ONCE):
            block = places[first:first + SENTENCES_AT_ONCE]
            ids = torch.stack([text.ids[place] for place in block], 1)
            log_p = columns(torch.cat([torch.full_like(ids[:1], end), ids]))
            for column, place in enumerate(block):
                found[place] = log_p[:, column]
    return found


def closing_line(log_p: Tensor, line: str = "| End of training | test loss {loss:5.2f} | test ppl "
                 "{ppl:8.2f}") -> dict:
    """For `report`: the loss and perplexity with which a training script ends, whose evaluation
    divides by all tokens, one more than it predicts. log_p (N,); line: to be filled."""
    loss = -float(log_p.nansum()) / len(log_p)
    ppl = perplexity(loss)
    return {"test_loss": loss, "test_ppl": ppl, "test_line": line.format(loss=loss, ppl=ppl)}


# ------------------------------------------------------------------------------------- the tally
@dataclass
class Tally:
    """Of a sentence or a text: predicted tokens, words that end with one of them, unknown tokens
    among them, and log-probabilities, natural ones, of all and of the unknown."""

    tokens: int
    words: int
    unknown: int
    log_probability: float
    of_unknown: float

    def numbers(self) -> dict:
        """The numbers under the names that --json gives them; None for no number."""
        known = self.tokens - self.unknown
        return {"log_probability": self.log_probability if self.tokens else None,
                "tokens": self.tokens, "words": self.words, "unknown": self.unknown,
                "perplexity_per_token": ratio(self.log_probability, self.tokens),
                "perplexity_per_word": ratio(self.log_probability, self.words),
                "perplexity_of_known": ratio(self.log_probability - self.of_unknown, known),
                "bits_per_token": -self.log_probability / self.tokens / math.log(2)
                if self.tokens else None}


def ratio(log_probability: float, count: int) -> float | None:
    """Perplexity; None of nothing, or if it is no finite number."""
    found = perplexity(-log_probability / count) if count else math.inf
    return found if math.isfinite(found) else None


def perplexity(loss: float) -> float:
    """exp(loss); inf where that is too large for a float."""
    return math.exp(loss) if loss < 709 else math.inf


def tally(text: Text, log_p: Tensor, place: slice) -> Tally:
    """log_p (N,), nan where nothing was predicted."""
    part, words = log_p[place], text.word_ends[place]
    predicted = ~part.isnan()
    strange = text.is_unknown[place] & predicted
    return Tally(int(predicted.sum()), int((words & predicted).sum()), int(strange.sum()),
                 float(part[predicted].sum()), float(part[strange].sum()))


# ----------------------------------------------------------------------------------- what is said
def report(text: Text, log_p: Tensor, args, names: Names, extra: dict | None = None) -> None:
    """Prints the scores as the flags say. log_p (N,); names: id -> token; extra: further totals, by
    the names that --json gives them."""
    totals = tally(text, log_p, slice(0, len(text.ids)))
    facts = {"model": args.model, "text": args.text,
             "reading": "independent" if args.independent else "continuous",
             **totals.numbers(), "unknown_words": dict(text.unknown.most_common()),
             **(extra or {})}
    if args.json:
        if not args.totals:
            facts["sentences"] = list(sentences(text, log_p, names, args.per_token))
        print(json.dumps(facts, ensure_ascii=False))
        return
    if not args.totals:
        print("sentence\tlog-probability\ttokens\tunknown\tperplexity")
        for number, each in enumerate(sentences(text, log_p, names, args.per_token), 1):
            print(f"{number}\t{shown(each['log_probability'], 4)}\t{each['tokens']}"
                  f"\t{each['unknown']}\t{shown(each['perplexity_per_token'], 2)}")
            for token, value in each.get("per_token", []):
                print(f"\t{shown(value, 4)}\t{token}")
    print(summary(text, facts))


def sentences(text: Text, log_p: Tensor, names: Names, per_token: bool) -> Iterator[dict]:
    """The numbers of each sentence, with its tokens as the text has them."""
    for place in text.sentences():
        found = tally(text, log_p, place).numbers()
        if per_token:
            found["per_token"] = [
                [text.unknown_at.get(i, names[int(text.ids[i])]),
                 None if math.isnan(log_p[i]) else float(log_p[i])]
                for i in range(place.start, place.stop)]
        yield found


def summary(text: Text, facts: dict) -> str:
    """The totals in words."""
    of_all, predicted = len(text.ids), facts["tokens"]
    lines = [
        f"{len(text.ends):,} sentences, {of_all:,} tokens with the line ends, {predicted:,} of "
        f"them predicted, read as {facts['reading']} "
        f"{'sentences' if facts['reading'] == 'independent' else 'text'}",
        f"log-probability {shown(facts['log_probability'], 4)} (natural logarithm), "
        f"{shown(facts['bits_per_token'], 4)} bits per token",
        f"perplexity {shown(facts['perplexity_per_token'], 2)} per token, "
        f"{shown(facts['perplexity_per_word'], 2)} per word ({facts['words']:,} words)"]
    if "test_line" in facts:
        lines.append(f"as the training script counts: {facts['test_line']}")
    if text.unknown:
        lines.append(f"{sum(text.unknown.values()):,} unknown words, scored as <unk>: "
                     f"{names_of(text.unknown)}; without them perplexity "
                     f"{shown(facts['perplexity_of_known'], 2)} per token")
    else:
        lines.append("no unknown words")
    return "\n".join(lines)


def shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
