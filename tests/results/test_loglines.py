"""loglines.py: the lines every system prints, and machine.py's file names."""

import pytest

from results import loglines, machine

RULE = "-" * 89
LOG = f"""Producing dataset...
Args: Namespace(batch_size=20)
Model total parameters: 24221600
| epoch   1 |   200/  663 batches | lr 30.00000 | ms/batch 95.11 | loss  6.75 | ppl   855.11 | bpc
{RULE}
| end of epoch   1 | time: 65.12s | valid loss  5.70 | valid ppl   298.87 | valid bpc    8.223
{RULE}
Saving model (new best validation)
| end of epoch   2 | time: 64.98s | valid loss  4.11 | valid ppl    60.95 | valid bpc    5.930
Saving Averaged!
| end of epoch   3 | time: 66.00s | valid loss  4.20 | valid ppl    66.69 | valid bpc    6.060
{"=" * 89}
| End of training | test loss  4.07 | test ppl    58.80 | test bpc    5.877
"""


def test_awd_lstm_log():
    curve, final = loglines.parse_log(LOG)
    assert curve[0] == {"epoch": 1, "seconds": 65.12, "valid_loss": 5.7, "valid_ppl": 298.87,
                        "valid_bpc": 8.223}
    assert final == {"params": 24221600, "best_epoch": 2, "valid_loss": 4.11, "valid_ppl": 60.95,
                     "valid_bpc": 5.93, "test_loss": 4.07, "test_ppl": 58.8, "test_bpc": 5.877}


CASES = {
    "pointer": ("| End of pointer | val loss  3.97 | val ppl    53.20\n"
                "| End of pointer | test loss  3.96 | test ppl    52.50",
                {"valid_loss": 3.97, "valid_ppl": 53.2, "test_loss": 3.96, "test_ppl": 52.5}),
    "trellisnet-word": ("| end of epoch   1 | time:  1.23s | valid loss  3.25 | valid ppl 25.71\n"
                        "| end of epoch   1 | time:  1.23s | test loss  3.20 | test ppl    24.53\n"
                        "| End of training | test loss  2.95 | test ppl    19.19",
                        {"best_epoch": 1, "valid_loss": 3.25, "valid_ppl": 25.71,
                         "test_loss": 2.95, "test_ppl": 19.19}),
    "trellisnet-char": ("| End of epoch   1 | valid loss 3.091 | valid bpc    4.459\n"
                        "| End of training | test loss 0.917 | test bpc    1.323",
                        {"best_epoch": 1, "valid_loss": 3.091, "valid_bpc": 4.459,
                         "test_loss": 0.917, "test_bpc": 1.323}),
    "trellisnet-seq": ("Train Epoch: 1 [16/48 (33%)]\tlr: 0.010000\tLoss: 4.576741\tSteps: 1568\n"
                       "Test set: Average loss: 2.3142, Accuracy: 5/40 (12%)",
                       {"test_loss": 2.3142, "test_acc": 12.5}),
    "sparse-tagging": ("Epoch 1: train loss 0.51, valid acc 0.9312\n"
                       "Finished: test accuracy after last epoch: 0.948",
                       {"best_epoch": 1, "valid_acc": 93.12, "test_acc": 94.8}),
    "sparse-params": ("params total: 24.222M", {"params": 24222000}),
    "scratch": ("epoch: 1.00| time: 392.00| train_loss: 6.51| val_loss: 6.52| train_ppl: 671.10| "
                "val_ppl: 673.80| val_bpc: 9.40| train_bpc: 9.39",
                {"best_epoch": 1, "valid_loss": 6.52, "valid_ppl": 673.8, "valid_bpc": 9.4}),
    "fairseq": ("INFO | valid | epoch 001 | valid on 'valid' subset | loss 8.5 | ppl 362.04\n"
                "INFO | fairseq_cli.eval_lm | Loss (base 2): 4.6247, Perplexity: 24.67",
                {"best_epoch": 1, "valid_loss_base2": 8.5, "valid_ppl": 362.04,
                 "test_loss_base2": 4.6247, "test_ppl": 24.67}),
    "tnn-im": ("Epoch: [3] Total time: 0:01:02 (0.4 s / it)\n* Acc@1 72.290 Acc@5 91.0 loss 1.230",
               {"best_epoch": 4, "valid_acc": 72.29, "valid_acc5": 91.0, "valid_loss": 1.23}),
    "diverged": ("| end of epoch   1 | time:  1.23s | valid loss   nan | valid ppl      nan", {}),
}


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=CASES)
def test_lines_of_every_system(text, expected):
    assert loglines.parse_log(text)[1] == expected


def test_recite_is_a_curve_of_training_accuracy():
    curve, _ = loglines.parse_log("Epoch 2  -   50/200 train items correctly predicted;  accuracy")
    assert curve == [{"epoch": 2, "train_acc": 25.0}]


def test_slug():
    cpu = {"cpu": "Intel(R) Xeon(R) CPU @ 2.20GHz", "cores": 2}
    assert machine.slug(cpu) == "intel-xeon-cpu-2-20ghz-2c"
    assert machine.slug({**cpu, "gpus": ["NVIDIA H200"] * 2}) == "2x-nvidia-h200"
