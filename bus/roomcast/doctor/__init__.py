"""``roomcast doctor``: looks at a running system from outside and says what is wrong and what to do."""
