#include "decoder.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <new>
#include <stdexcept>

#include "scratch.h"

namespace herd {

Memory::Memory(size_t bytes) : bytes_((bytes + 4095) / 4096 * 4096) {
  if (!bytes_) return;
  data_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data_ == MAP_FAILED) {
    data_ = nullptr;
    throw std::bad_alloc();
  }
#if defined(MADV_HUGEPAGE)
  if (bytes_ >= (4u << 20)) madvise(data_, bytes_, MADV_HUGEPAGE);
#endif
}

Memory::~Memory() {
  if (data_) munmap(data_, bytes_);
}

namespace {

// Let go of the resident pages of a mapped file; it is read anew where it is used again.
void give_back(const uint8_t* first, const uint8_t* last) {
  const uintptr_t page = uintptr_t(sysconf(_SC_PAGESIZE));
  uintptr_t from = reinterpret_cast<uintptr_t>(first) / page * page, to = (reinterpret_cast<uintptr_t>(last) + page - 1) / page * page;
  madvise(reinterpret_cast<void*>(from), to - from, MADV_DONTNEED);
}

}  // namespace

uint8_t* Arena::take(size_t bytes) {
  constexpr size_t HUGE_PAGE = size_t(2) << 20, CHUNK = size_t(64) << 20;
  bytes = (bytes + 63) / 64 * 64;
  for (Piece& piece : given_)
    if (piece.bytes >= bytes) {
      uint8_t* taken = piece.data;
      piece = {piece.data + bytes, piece.bytes - bytes};
      return taken;
    }
  if (bytes > left_) {
    size_t size = std::max(bytes, CHUNK);
    chunks_.emplace_back(size + HUGE_PAGE);
    uintptr_t start = (reinterpret_cast<uintptr_t>(chunks_.back().data()) + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    next_ = reinterpret_cast<uint8_t*>(start);
    left_ = size;
  }
  uint8_t* taken = next_;
  next_ += bytes;
  left_ -= bytes;
  return taken;
}

void Arena::give(uint8_t* data, size_t bytes) {
  given_.erase(std::remove_if(given_.begin(), given_.end(), [](const Piece& piece) { return piece.bytes == 0; }), given_.end());
  given_.push_back({data, (bytes + 63) / 64 * 64});
}

Decoder::Decoder(Shape shape, int threads, int blocks, const char* isa, CacheKind kind)
    : shape_(std::move(shape)), k_(choose_kernels(isa)), kind_(kind), blocks_(blocks) {
  if (!k_) throw std::invalid_argument(std::string("this processor or build has no instruction set ") + isa);
  if (shape_.head_dim % 16) throw std::invalid_argument("head_dim is not a multiple of 16; use --backend torch");
  if (kind_ == CacheKind::INT4 && shape_.head_dim % 32) throw std::invalid_argument("a cache of int4 needs a head_dim that 32 divides; use int8");
  pool_ = std::make_unique<Pool>(threads);
  layers_ = std::vector<Layer>(size_t(shape_.layers));
  block_bytes_ = size_t(shape_.kv_heads) * head_bytes(shape_.head_dim, kind_);
  turned_ = kind_ == CacheKind::INT4 && !(shape_.head_dim & (shape_.head_dim - 1));
  layer_bytes_ = block_bytes_ * SLAB;
  slab_bytes_ = layer_bytes_ * size_t(shape_.layers);
  cache_ = Memory(slab_bytes_ * size_t((blocks + SLAB - 1) / SLAB));
  for (int i = 0; i < threads; i++) scratch_.push_back(std::make_unique<Scratch>());
  shared_ = std::make_unique<Scratch>();
}

Decoder::~Decoder() = default;

Decoder::Weights* Decoder::place(const std::string& name, std::vector<float>*& norm) {
  norm = nullptr;
  if (name == "output.weight") return &output_;
  if (name == "norm.weight") {
    norm = &norm_;
    return nullptr;
  }
  int index = 0, used = 0;
  if (std::sscanf(name.c_str(), "layers.%d.%n", &index, &used) == 1 && used && index >= 0 && index < shape_.layers) {
    Layer& l = layers_[size_t(index)];
    std::string rest = name.substr(size_t(used));
    if (rest == "attention.wq.weight") return &l.wq;
    if (rest == "attention.wk.weight") return &l.wk;
    if (rest == "attention.wv.weight") return &l.wv;
    if (rest == "attention.wo.weight") return &l.wo;
    if (rest == "feed_forward.w1.weight") return &l.w1;
    if (rest == "feed_forward.w2.weight") return &l.w2;
    if (rest == "feed_forward.w3.weight") return &l.w3;
    if (rest == "attention_norm.weight") norm = &l.attention_norm;
    if (rest == "ffn_norm.weight") norm = &l.ffn_norm;
    if (norm) return nullptr;
  }
  throw std::invalid_argument("unknown tensor " + name);
}

void Decoder::add(const std::string& name, int format, int rows, int columns, const uint8_t* raw, size_t bytes,
                  const float* scale, bool mapped) {
  if (rows <= 0 || columns <= 0 || bytes % size_t(rows)) throw std::invalid_argument("wrong size of " + name);
  size_t row_bytes = bytes / size_t(rows);
  if (name == "tok_embeddings.weight") {
    embedding_raw_ = raw;  // the caller keeps it alive
    embedding_row_bytes_ = row_bytes;
    embedding_format_ = format;
    embedding_scale_.assign(scale, scale ? scale + rows : scale);
    return;
  }
  std::vector<float>* norm;
  Weights* w = place(name, norm);
  if (norm) {
    norm->resize(size_t(columns));
    k_->unpack_row(format, raw, columns, norm->data());
    return;
  }
  Matrix& m = w->matrix;
  m.kind = k_->packed_kind(format);
  m.rows = rows;
  m.columns = columns;
  m.tile_bytes = tile_bytes(m.kind, columns);
  widest_tile_ = std::max(widest_tile_, m.tile_bytes);
  has_integers_ |= is_integer(m);
  has_pairs_ |= is_pairs(m);
  int count = tiles(m);
  if (size_t needed = m.tile_bytes * size_t(count); needed != w->bytes) {
    if (w->data) arena_.give(w->data, w->bytes);
    w->data = arena_.take(needed);
    w->bytes = needed;
  }
  uint8_t* data = w->data;
  m.data = data;
  m.row_scale = nullptr;
  if (scale) {
    w->scale.assign(size_t(count) * TILE, 0.0f);
    std::copy(scale, scale + rows, w->scale.begin());
    m.row_scale = w->scale.data();
  }
  w->raw = raw;
  w->row_bytes = row_bytes;
  w->format = format;
  w->packed = w->packing = 0;
  if (mapped && k_->packs_fast(format)) {
    all_packed_ = false;
    return;
  }
  const int together = mapped ? std::max(1, int((size_t(16) << 20) / (TILE * row_bytes))) : count;
  for (int first = 0; first < count; first += together) {
    const int last = std::min(first + together, count);
    pack_tiles(*w, first, last);
    if (mapped) packed_up_to(*w, last);
  }
  w->packed = w->packing = count;
  w->raw = nullptr;
}

void Decoder::pack_tile(const Weights& w, int index, uint8_t* out) const {
  k_->pack(w.matrix, w.format, w.raw + size_t(index) * TILE * w.row_bytes, w.row_bytes, std::min(TILE, w.matrix.rows - index * TILE), out);
}

void Decoder::pack_tiles(Weights& w, int first, int last) {
  std::atomic<int> next{first};
  pool_->run([&](int) {
    for (int tile; (tile = next.fetch_add(1)) < last;) pack_tile(w, tile, w.data + size_t(tile) * w.matrix.tile_bytes);
  });
}

// Tiles up to `last` are packed for good: the file's pages are not needed any more.
void Decoder::packed_up_to(Weights& w, int last) {
  auto row = [&](int tile) { return w.raw + std::min(size_t(tile) * TILE, size_t(w.matrix.rows)) * w.row_bytes; };
  if (last > w.packed) give_back(row(w.packed), row(last));
  w.packed = last;
  if (last == tiles(w.matrix)) w.raw = nullptr;
}

template <class F>
void Decoder::each_unpacked(F&& visit) {
  for (Layer& l : layers_)
    for (Weights* w : {&l.wq, &l.wk, &l.wv, &l.wo, &l.w1, &l.w3, &l.w2})
      if (w->packed < tiles(w->matrix)) visit(*w);
  if (output_.packed < tiles(output_.matrix)) visit(output_);
}

void Decoder::pack() {
  if (all_packed_) return;
  each_unpacked([&](Weights& w) {
    pack_tiles(w, w.packed, tiles(w.matrix));
    packed_up_to(w, tiles(w.matrix));
    w.packing = w.packed;
  });
  all_packed_ = true;
}

// What the last step packed is packed; choose what the next will.
void Decoder::plan_packing(bool with_output) {
  if (all_packed_) return;
  size_t left = packed_a_step;
  all_packed_ = true;
  each_unpacked([&](Weights& w) {
    if (w.packing > w.packed) packed_up_to(w, w.packing);
    if (w.packed == tiles(w.matrix)) return;
    all_packed_ = false;
    if (&w == &output_ && !with_output) return;
    w.packing = std::min(tiles(w.matrix), w.packed + int(left / w.matrix.tile_bytes));
    left -= size_t(w.packing - w.packed) * w.matrix.tile_bytes;
  });
}

uint8_t* Decoder::block_of(int layer, int block) const {
  if (block < 0 || block >= blocks_) throw std::invalid_argument("a block outside the cache");
  return cache_.data() + size_t(layer) * layer_bytes_ + block_at(block, block_bytes_, slab_bytes_);
}

void Decoder::read_block(int block, uint8_t* out) const {
  for (int l = 0; l < shape_.layers; l++) std::memcpy(out + size_t(l) * block_bytes_, block_of(l, block), block_bytes_);
}

void Decoder::write_block(int block, const uint8_t* in) {
  for (int l = 0; l < shape_.layers; l++) std::memcpy(block_of(l, block), in + size_t(l) * block_bytes_, block_bytes_);
}

void Decoder::clear(int block) {
  for (int l = 0; l < shape_.layers; l++) std::memset(block_of(l, block), 0, block_bytes_);
}

void Decoder::finish() {
  const Shape& s = shape_;
  auto check = [](const Weights& w, int rows, int columns) {
    if (w.matrix.rows != rows || w.matrix.columns != columns) throw std::invalid_argument("a tensor is missing or has a wrong shape");
  };
  for (auto& l : layers_) {
    check(l.wq, s.heads * s.head_dim, s.dim);
    check(l.wk, s.kv_heads * s.head_dim, s.dim);
    check(l.wv, s.kv_heads * s.head_dim, s.dim);
    check(l.wo, s.dim, s.heads * s.head_dim);
    check(l.w1, s.ffn, s.dim);
    check(l.w3, s.ffn, s.dim);
    check(l.w2, s.dim, s.ffn);
    if (int(l.attention_norm.size()) != s.dim || int(l.ffn_norm.size()) != s.dim) throw std::invalid_argument("a norm is missing");
  }
  check(output_, s.vocab, s.dim);
  if (int(norm_.size()) != s.dim || !embedding_raw_) throw std::invalid_argument("norm or embedding is missing");
}

}  // namespace herd
