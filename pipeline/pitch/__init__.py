"""The pitch stage: the pitch of every segment as codes, and contours to train a pitch tokenizer on."""
