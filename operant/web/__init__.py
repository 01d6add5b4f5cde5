"""The web atlas: papers and their verdicts, runs with live curves, agents that are watched while they act.

    serve.py    the address, the token, Ctrl-C
    guard.py    who may ask: Host, Origin, token; the headers of every answer
    site.py     pages and data, by URL
    atlas.py    papers: what is known of each, its figure, the source of its methods
    runs.py     runs, by ids made from the listing
    curves.py   a file of metrics of any length as a few hundred points, read piece by piece
    watching.py an agent in a process of its own, frame by frame (`actor.py` is that process)
    export.py   the atlas as files for any static host

The server never starts JAX: whatever needs it runs in a process of its own.  Nothing that a run or a result contains is
trusted: it is shown as text, and no path is made from what a request says.
"""
