"""``python -m roomcast``: the same as the command ``roomcast``."""

from roomcast.commands import main

if __name__ == "__main__":
    main(prog_name="roomcast")
