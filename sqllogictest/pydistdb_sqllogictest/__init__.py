"""A runner for sqllogictest files, for any server that speaks the Postgres protocol.

``records`` says what a file holds, ``parse`` reads the five record syntaxes, ``compare`` holds a result against what the
file expects, ``session`` talks to the server, ``run`` takes one file through a database of its own, ``report`` tells
people and build servers, ``arguments`` and ``command`` are the command line.  Nothing of PyDistDB is imported here: the
runner judges the database from outside, and judges PostgreSQL just as well.
"""
