// The thin layer between Python and the tokenizer: bytes in, ids out, the GIL released while it works.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <atomic>
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

nb::list listed(const std::vector<int32_t>& ids) {
  nb::list out = nb::steal<nb::list>(PyList_New(Py_ssize_t(ids.size())));
  for (size_t i = 0; i < ids.size(); i++) PyList_SET_ITEM(out.ptr(), Py_ssize_t(i), PyLong_FromLong(ids[i]));
  return out;
}

nb::list encode_batch(const Bpe& bpe, nb::list texts, int threads) {
  std::vector<std::string_view> views;
  for (nb::handle text : texts) views.push_back(view(text));
  std::vector<std::vector<int32_t>> found(views.size());
  {
    nb::gil_scoped_release release;
    std::atomic<size_t> next{0};
    auto work = [&] {
      for (size_t i; (i = next.fetch_add(1)) < views.size();) bpe.encode(views[i], found[i]);
    };
    std::vector<std::thread> helpers;
    for (int i = 1; i < threads && size_t(i) < views.size(); i++) helpers.emplace_back(work);
    work();
    for (auto& helper : helpers) helper.join();
  }
  nb::list out;
  for (auto& ids : found) out.append(listed(ids));
  return out;
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
      .def_prop_ro("end", &Strings::end);
  nb::class_<Bpe>(m, "Bpe")
      .def("__init__",
           [](Bpe* self, const Strings& tokens, nb::bytes kinds, const Strings& merges, int cut, bool whole_words) {
             if (kinds.size() != tokens.size()) throw nb::value_error("a kind is needed for each token");
             if (cut < 0 || cut > int(Cut::SMOLLM)) throw nb::value_error("unknown cut");
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
