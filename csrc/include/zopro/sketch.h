// The sketch's law: where each element of a tensor goes, and with which sign.
//
// The sums of a sketch, dim of them, are dim / 128 buckets. Elements are moved in blocks of 128: block b
// of a tensor goes to a random bucket, in an order turned by random bits r(b), with random signs:
//
//     sums[128 bucket(b) + (j ^ r(b))] += sign(b, j) x[128 b + j],  j = 0 .. 127
//
// Two elements of different blocks meet with probability (128 / dim) (1 / 128) = 1 / dim wherever they
// lie in their blocks; two of one block never. Buckets are whole vectors of any instruction set: a
// block touches whole cache lines, and what it reads was stored by the same vector.
//
// A chunk is 2^17 consecutive elements of the global index space. In it sums are fp32, blocks are
// added from the first to the last; chunks are added up in fp64, in the order of tensors and chunks.
// That order is a part of the law: all backends give the same bits.
// Mirrors: zopro_kernels/sketch_law.py (the oracle) and zopro_kernels/triton_sketch.py.
#pragma once

#include "zopro/noise.h"

namespace zopro {

constexpr int SKETCH_BLOCK = 128;
constexpr int64_t SKETCH_CHUNK = 1 << 17;

// One call gives the signs of a block, element j's in bit j % 32 of word j / 32 ...
ZOPRO_HD uint64_t sketch_sign_call(uint64_t block) { return block; }
// ... and one call a word for each of four blocks, that fixes the bucket and the order.
ZOPRO_HD uint64_t sketch_place_call(uint64_t block) { return block >> 2; }
ZOPRO_HD uint32_t sketch_bucket(uint32_t word, uint32_t buckets) {
    return ((word >> 7) * uint64_t(buckets)) >> 25;
}
ZOPRO_HD uint32_t sketch_order(uint32_t word) { return word & 127u; }

// Tensors are described by rows of int64 [T, 6].
enum SketchColumn { ADDRESS, NUMEL, OFFSET, PARAM, RESULT, CHUNKS_BEFORE, SKETCH_COLUMNS };

}  // namespace zopro
