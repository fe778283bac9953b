"""Tests of the answer `users`, on its machinery: the template runs them inside a bake."""
