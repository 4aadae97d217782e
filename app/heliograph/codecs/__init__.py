"""The wire formats. Only a codec knows one; `codec.py` says what a codec promises."""
