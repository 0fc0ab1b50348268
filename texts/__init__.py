"""Any text, seen by a trained language model: its sentences, the words that the model knows, and
what they cost. Knows no paper; the papers' data.py and score.py use it.

    folder.py      the three texts of a folder, under the names that they go by
    words.py       a text's words, some megabytes at a time
    vocabulary.py  the words of a model, as its file holds them; unknown words, counted and named; a
                   model that gets other words
    sentences.py   a text to score
    scores.py      log-probabilities per token, sentence and text; how they are printed
    flags.py       what every score.py is told; --vocabulary
"""
