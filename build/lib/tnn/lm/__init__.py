"""The language models' tools: published architectures, GLUE's data, generation, plots. The models
themselves are in tnn.fairseq_plugin, which stock fairseq loads."""
