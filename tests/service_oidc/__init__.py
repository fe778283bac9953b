"""The tests of the machinery. The template's tests run them inside a baked service, where they are `tests.service`."""
