#define MACHINE avx2
#define WIDTH 8
#define SPLIT 2
#include "evaluate.inc"
#include "edges.inc"
#include "basis.inc"
