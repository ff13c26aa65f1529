"""What whole models have besides attention, by family: functions of config.json.

design             the types of such descriptions
parts              what the designs of many decoders share
encoders           models that read a whole sequence of words, or of amino acids, at once
vision             models of images, and the towers of text beside them
gpt                GPT-2 and models between it and Llama
llama              Llama and its successors
gemma              Gemma 1 to 3
encoder_decoders   T5, BART and Whisper
"""
