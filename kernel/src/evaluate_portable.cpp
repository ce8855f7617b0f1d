#define MACHINE portable
#define WIDTH 4
#define SPLIT 2
#include "evaluate.inc"
#include "edges.inc"
#include "basis.inc"
