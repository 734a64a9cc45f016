"""The command ``kgdet report``: what an evaluation found, as one page that needs no other file."""
