"""Sequences of DNA, RNA and protein: alphabets, codec, files, data sets, networks, rewards, metrics.

Import from the submodules: ``alphabets`` (`Alphabet`), ``codec`` (`SequenceCodec`), ``files`` (`read_sequences`,
`write_sequences`), ``data`` (`sequence_dataset`), ``datamodule`` (`SequenceData`), ``network`` (`SequenceCNN`).
"""
