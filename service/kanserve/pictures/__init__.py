"""Pictures of a served KAN: what there is to draw, apart from what it is drawn on.

scene      lines, boxes, dots, words and grids of colours, in points from the top left
network    a network as pykan's users know it: nodes, edges, a small curve on each edge
matrix     a network too large for that: a field of colours a layer
edge       one edge, large, over its grid
svg        a scene as text
png        a scene as pixels (the extra `plot`)
braille    a scene as characters
page       text, tables and scenes as one HTML file
"""
