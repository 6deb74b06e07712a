"""The web console: what a node shows of its cluster to people, on the HTTP port under /console.

==================  ================================================================================
site.py             routes, signing in and out, deeds
layout.py, html.py  the frame of a page; elements, escaping, figures for people
overview.py         health, load, what is busiest
cluster_pages.py    nodes, ranges, the key space over time
sql_pages.py        statements and plans, sessions, transactions in doubt, jobs
cluster.py          what is gathered from all nodes, at most once in a while
history.py          the last hour of this node, and of all
charts.py           lines and bars, as SVG
heat_map.py         the key space over time, as SVG
access.py           who may look and who may act
files/              style, script, icon: all there is, nothing is loaded from elsewhere
==================  ================================================================================
"""
