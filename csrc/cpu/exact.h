// To be included last by a file whose results must have the bits of the same operations done one by one: the
// compiler may not fuse a product and a sum into one rounding. GCC has this per function only, and then inlines
// nothing from elsewhere; so it is asked only where the processor has such an operation.
#pragma once

#if defined(__clang__)
#pragma clang fp contract(off)
#elif defined(__FMA__) || !defined(__x86_64__)
#pragma GCC optimize("fp-contract=off")
#endif
