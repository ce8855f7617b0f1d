#define MACHINE avx512
#define WIDTH 16
#define SPLIT 2
#include "evaluate.inc"
#include "edges.inc"
#include "basis.inc"
