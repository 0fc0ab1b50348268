"""log_lines.py: fairseq's lines and those of calls that only evaluate."""

import pytest

from report import log_lines, measurements, provenance

CASES = {
    "pointer": ("| End of pointer | val loss  3.97 | val ppl    53.20\n"
                "| End of pointer | test loss  3.96 | test ppl    52.50",
                {"valid_loss": 3.97, "valid_ppl": 53.2, "test_loss": 3.96, "test_ppl": 52.5}),
    "trellisnet-word-eval": (
        "| end of epoch  -1 | time:  1.23s | valid loss  3.25 | valid ppl 25.71\n"
        "| end of epoch  -1 | time:  1.23s | test loss  3.20 | test ppl    24.53",
        {"valid_loss": 3.25, "valid_ppl": 25.71, "test_loss": 3.2, "test_ppl": 24.53}),
    "trellisnet-char-eval": ("| End of epoch  -1 | valid loss 3.091 | valid bpc    4.459\n"
                             "| End of training | test loss 0.917 | test bpc    1.323",
                             {"valid_loss": 3.091, "valid_bpc": 4.459, "test_loss": 0.917,
                              "test_bpc": 1.323}),
    "trellisnet-images-eval": ("Test set: Average loss: 2.3142, Accuracy: 5/40 (12%)",
                               {"test_loss": 2.3142, "test_acc": 12.5}),
    "parameters": ("Model total parameters: 24221600", {"params": 24221600}),
    "sparse-parameters": ("params total: 24.222M", {"params": 24222000}),
    "im-parameters": ("number of params: 123", {"params": 123}),
    "fairseq": ("INFO | valid | epoch 001 | valid on 'valid' subset | loss 8.5 | ppl 362.04\n"
                "INFO | fairseq_cli.eval_lm | Loss (base 2): 4.6247, Perplexity: 24.67",
                {"best_epoch": 1, "valid_loss_base2": 8.5, "valid_ppl": 362.04,
                 "test_loss_base2": 4.6247, "test_ppl": 24.67}),
    "glue-CoLA": (
        "epoch 001 | valid on 'valid' subset | loss 0.9 | nll_loss 0.9 | accuracy 68.5 | mcc -0.021"
        " | wps 31 | num_updates 10 | best_mcc 0.3\n"
        "epoch 002 | valid on 'valid' subset | loss 1.2 | nll_loss 1.2 | accuracy 66.1 | mcc 0.3075"
        " | wps 31 | num_updates 20 | best_mcc 0.3075",
        {"best_epoch": 2, "valid_loss_base2": 1.2, "valid_acc": 66.1, "valid_mcc": 30.75}),
    "glue-MRPC": (
        "epoch 001 | valid on 'valid' subset | loss 1 | accuracy 80 | acc_and_f1 0.84 | f1 0.88",
        {"best_epoch": 1, "valid_loss_base2": 1.0, "valid_acc": 80.0, "valid_acc_and_f1": 84.0,
         "valid_f1": 88.0}),
    "glue-STS-B": (
        "epoch 001 | valid on 'valid' subset | loss 1 | pearson_and_spearman 0.85 | pearson 0.86 | "
        "spearman nan | wps 3",
        {"best_epoch": 1, "valid_loss_base2": 1.0, "valid_pearson_and_spearman": 85.0,
         "valid_pearson": 86.0, "valid_spearman": None}),
    "glue-MNLI": (
        "epoch 001 | valid on 'valid' subset | loss 1 | nll_loss 1 | accuracy 76.5 | wps 9\n"
        "epoch 001 | valid on 'valid1' subset | loss 1 | nll_loss 1 | accuracy 75.5 | wps 9",
        {"best_epoch": 1, "valid_loss_base2": 1.0, "valid_acc": 76.5,
         "valid_acc_mismatched": 75.5}),
    "im-eval": ("* Acc@1 72.290 Acc@5 91.0 loss 1.230",
                {"valid_acc": 72.29, "valid_acc5": 91.0, "valid_loss": 1.23}),
    "lra-eval": ("val loss 0.6931 acc 50.00 | test loss 0.7000 acc 49.50",
                 {"valid_loss": 0.6931, "valid_acc": 50.0, "test_loss": 0.7, "test_acc": 49.5}),
    "not-finite": ("| End of pointer | test loss   nan | test ppl      inf",
                   {"test_loss": None, "test_ppl": None}),
}


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=CASES)
def test_closing_numbers(text, expected):
    assert measurements.add_best(*log_lines.parse_log(text)) == expected


@pytest.mark.parametrize("line", [
    "| end of epoch   2 | time: 65.12s | valid loss  5.70 | valid ppl   298.87 | valid bpc  8.223",
    "epoch: 2.00| time: 65.12| train_loss: 6.51| val_loss: 6.52| train_ppl: 671.10"])
def test_of_a_training_run_the_log_adds_the_seconds(line):
    assert log_lines.parse_log(line) == ([{"epoch": 2, "seconds": 65.12}], {})


def test_a_fresh_start_forgets_what_was_thrown_away():
    old, new = "Loss (base 2): 5, Perplexity: 32", "epoch 001 | valid on 'valid' subset | loss 8.5"
    curve, final = log_lines.parse_log(f"{old}\n{log_lines.FRESH_START}, attempt 2\n{new}")
    assert curve == [{"epoch": 1, "valid_loss_base2": 8.5}]
    assert final == {}


def test_slug():
    cpu = {"cpu": "Intel(R) Xeon(R) CPU @ 2.20GHz", "cores": 2}
    assert provenance.slug(cpu) == "intel-xeon-cpu-2-20ghz-2c"
    assert provenance.slug({**cpu, "gpus": ["NVIDIA H200"] * 2}) == "2x-nvidia-h200"
