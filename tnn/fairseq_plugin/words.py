"""fairseq's checkpoints hold the words of their dictionary, and are refused beside another one.

A checkpoint has them under extra_state, by the name of the task's class, as fairseq keeps what is a
task's own: {"word_list", "vocabulary"}, see texts.vocabulary. Importing this module changes fairseq
once. Checkpoints of before load as they did.
"""

from fairseq import checkpoint_utils
from fairseq.tasks import FairseqTask

from harness.endings import BadInput, bad_input
from texts.vocabulary import digest_of, pack, words_in_file
from tnn.lm.checkpoint import words_of

KEY = "tnn words"  # of task_state, while a checkpoint is being loaded


def get_checkpoint_dict(self: FairseqTask) -> dict:
    """What fairseq-train adds to a checkpoint's extra_state."""
    if self.source_dictionary is None:
        return {}
    words = self.source_dictionary.symbols
    return {type(self).__name__: {"word_list": pack(words), "vocabulary": digest_of(words)}}


def set_checkpoint_dict(self: FairseqTask, words: dict) -> None:
    """fairseq-train calls it when it goes on from a checkpoint. Raises BadInput if the task has
    other words."""
    if self.source_dictionary is None or "word_list" not in words:
        return
    if digest_of(self.source_dictionary.symbols) != words["vocabulary"]:
        data = (getattr(self, "args", None) or self.cfg).data
        raise BadInput(f"the dictionary in {data} is not the one that {words['file']} was trained "
                       "with: its words, or their order, differ")


def load_state_dict(self: FairseqTask, state_dict: dict) -> None:
    """The same for what only reads a checkpoint: fairseq-eval-lm, fairseq-generate, our tools."""
    state = dict(state_dict)
    set_checkpoint_dict(self, state.pop(KEY, {}).get(type(self).__name__, {}))
    fairseq_load_state_dict(self, state)


def load_with_words(path: str, *args, **more) -> dict:
    """fairseq's load_checkpoint_to_cpu. Raises BadInput if the list of words is damaged."""
    state = load(path, *args, **more)
    found = words_of(state)
    for words in found.values():
        with bad_input(f"{path}: "):
            words_in_file(words, digest=words.get("vocabulary", ""))
        words["file"] = str(path)
    if found:
        state["task_state"] = {**state.get("task_state", {}), KEY: found}
    return state


load, checkpoint_utils.load_checkpoint_to_cpu = (
    checkpoint_utils.load_checkpoint_to_cpu, load_with_words)
fairseq_load_state_dict, FairseqTask.load_state_dict = FairseqTask.load_state_dict, load_state_dict
FairseqTask.get_checkpoint_dict = get_checkpoint_dict
FairseqTask.set_checkpoint_dict = set_checkpoint_dict
