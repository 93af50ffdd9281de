// The thin layer between Python and the tokenizer: bytes in, ids out, the GIL released while it works.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <thread>

#include "bpe.h"

namespace nb = nanobind;
using namespace herd::text;

namespace {

// Any object with a buffer, contiguous and read only.
class Buffer {
 public:
  explicit Buffer(nb::handle object) {
    if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_SIMPLE)) throw nb::python_error();
  }
  ~Buffer() { PyBuffer_Release(&view_); }
  Buffer(const Buffer&) = delete;
  const uint8_t* data() const { return static_cast<const uint8_t*>(view_.buf); }
  size_t size() const { return size_t(view_.len); }

 private:
  Py_buffer view_;
};

std::string_view view(nb::handle bytes) {
  nb::bytes b = nb::cast<nb::bytes>(bytes);  // the caller's list keeps it alive
  return {b.c_str(), b.size()};
}

// Memory that becomes a numpy array's own.
template <typename T>
nb::ndarray<nb::numpy, T, nb::ndim<1>> array(std::unique_ptr<T[]> data, size_t size) {
  T* raw = data.release();
  nb::capsule owner(raw, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  return {raw, {size}, owner};
}

nb::list listed(const std::vector<int32_t>& ids) {
  nb::list out = nb::steal<nb::list>(PyList_New(Py_ssize_t(ids.size())));
  for (size_t i = 0; i < ids.size(); i++) PyList_SET_ITEM(out.ptr(), Py_ssize_t(i), PyLong_FromLong(ids[i]));
  return out;
}

// Texts -> (ids [total] uint32, offsets [texts + 1] int64): text i has ids[offsets[i]] to ids[offsets[i + 1]].
// Threads take texts a group at a time, so that a million short ones need no million vectors.
nb::tuple encode_batch(const Bpe& bpe, nb::list texts, int threads) {
  constexpr size_t GROUP = 64;
  std::vector<std::string_view> views;
  for (nb::handle text : texts) views.push_back(view(text));
  std::vector<std::vector<int32_t>> groups((views.size() + GROUP - 1) / GROUP);
  std::unique_ptr<int64_t[]> offsets(new int64_t[views.size() + 1]);
  std::unique_ptr<uint32_t[]> ids;
  int64_t total = 0;
  {
    nb::gil_scoped_release release;
    std::atomic<size_t> next{0};
    auto work = [&] {
      for (size_t g; (g = next.fetch_add(1)) < groups.size();)
        for (size_t i = g * GROUP; i < std::min(views.size(), (g + 1) * GROUP); i++) {
          size_t before = groups[g].size();
          bpe.encode(views[i], groups[g]);
          offsets[i + 1] = int64_t(groups[g].size() - before);
        }
    };
    std::vector<std::thread> helpers;
    for (int i = 1; i < threads && size_t(i) < groups.size(); i++) helpers.emplace_back(work);
    work();
    for (auto& helper : helpers) helper.join();
    offsets[0] = 0;
    for (size_t i = 0; i < views.size(); i++) total = offsets[i + 1] += total;
    ids.reset(new uint32_t[size_t(total)]);
    uint32_t* to = ids.get();
    for (auto& group : groups) {
      to = std::copy(group.begin(), group.end(), to);
      std::vector<int32_t>().swap(group);
    }
  }
  return nb::make_tuple(array(std::move(ids), size_t(total)), array(std::move(offsets), views.size() + 1));
}

}  // namespace

NB_MODULE(_bpe, m) {
  nb::class_<Strings>(m, "Strings")
      .def("__init__",
           [](Strings* self, nb::handle buffer, size_t at, size_t count) {
             Buffer b(buffer);
             new (self) Strings(b.data(), b.size(), at, count);
           })
      .def("__init__", [](Strings* self, const std::vector<std::string>& all) { new (self) Strings(all); })
      .def("__len__", &Strings::size)
      .def("__getitem__",
           [](const Strings& self, Py_ssize_t i) {
             if (i < 0) i += Py_ssize_t(self.size());
             if (i < 0 || size_t(i) >= self.size()) throw nb::index_error();
             std::string_view one = self[size_t(i)];
             return nb::steal(PyUnicode_DecodeUTF8(one.data(), Py_ssize_t(one.size()), "replace"));
           })
      .def("find", &Strings::find)
      .def_prop_ro("end", &Strings::end);
  nb::class_<Bpe>(m, "Bpe")
      .def("__init__",
           [](Bpe* self, const Strings& tokens, nb::bytes kinds, const Strings& merges, int cut, bool whole_words) {
             if (kinds.size() != tokens.size()) throw nb::value_error("a kind is needed for each token");
             if (cut < 0 || cut > int(Cut::DEEPSEEK_V3)) throw nb::value_error("unknown cut");
             std::vector<Kind> each(tokens.size());
             for (size_t i = 0; i < each.size(); i++) each[i] = Kind(uint8_t(kinds.c_str()[i]));
             nb::gil_scoped_release release;
             new (self) Bpe(tokens, each, merges, Cut(cut), whole_words);
           })
      .def("encode",
           [](const Bpe& self, nb::bytes text) {
             std::vector<int32_t> ids;
             std::string_view bytes = view(text);
             {
               nb::gil_scoped_release release;
               self.encode(bytes, ids);
             }
             return listed(ids);
           })
      .def("encode_batch", &encode_batch)
      .def("token_bytes", [](const Bpe& self, size_t token) {
        std::string_view bytes = self.bytes_of(token);
        return nb::bytes(bytes.data(), bytes.size());
      });
}
