// The thin layer between Python and the decoder: arrays in, results out, the GIL released while it computes.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "decoder.h"
#include "probe.h"

namespace nb = nanobind;
using namespace herd;

template <class T>
using Array = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

namespace {

nb::object scored(const Score& score) {
  nb::list top;
  for (size_t i = 0; i < score.tokens.size(); i++) top.append(nb::make_tuple(score.tokens[i], score.logprobs[i]));
  return nb::make_tuple(score.logprob, nb::tuple(top));
}

// rows: a list of tuples as herd/native/__init__.py makes them.
nb::list step(Decoder& decoder, nb::list rows) {
  std::vector<StepRow> plan;
  std::vector<Array<int32_t>> ints;  // keeps the arrays alive
  std::vector<Array<float>> floats;
  std::vector<Array<uint32_t>> masks;
  std::vector<std::pair<size_t, nb::object>> late;  // rows with a function that gives their mask, perhaps after a wait
  auto take = [&](nb::handle h) { return ints.emplace_back(nb::cast<Array<int32_t>>(h)); };
  for (nb::handle item : rows) {
    nb::tuple t = nb::cast<nb::tuple>(item);
    StepRow row{};
    auto tokens = take(t[0]);
    auto table = take(t[2]);
    row.tokens = tokens.data();
    row.count = int(tokens.size());
    row.start = nb::cast<int>(t[1]);
    row.table = table.data();
    if (row.count + row.start > int(table.size()) * BLOCK) throw nb::value_error("a row's blocks do not hold its tokens");
    if (!t[3].is_none()) {
      nb::tuple p = nb::cast<nb::tuple>(t[3]);
      row.sample = true;
      SampleSpec& s = row.spec;
      s.temperature = nb::cast<float>(p[0]);
      s.top_p = nb::cast<float>(p[1]);
      s.min_p = nb::cast<float>(p[2]);
      s.top_k = nb::cast<int>(p[3]);
      s.repetition = nb::cast<float>(p[4]);
      s.presence = nb::cast<float>(p[5]);
      s.frequency = nb::cast<float>(p[6]);
      s.seed = nb::cast<uint64_t>(p[7]);
      s.position = nb::cast<int64_t>(p[8]);
      row.top = nb::cast<int>(p[9]);
      if (!p[10].is_none()) {
        auto history = take(p[10]);
        s.history = history.data();
        s.history_length = int64_t(history.size());
        s.prompt_length = nb::cast<int64_t>(p[11]);
      }
      if (!p[12].is_none()) {
        auto biased = take(p[12]);
        auto values = floats.emplace_back(nb::cast<Array<float>>(p[13]));
        s.bias_tokens = biased.data();
        s.bias_values = values.data();
        s.biases = int64_t(std::min(biased.size(), values.size()));
      }
      if (!p[14].is_none()) late.emplace_back(plan.size(), p[14]);
    }
    if (!t[4].is_none()) {
      auto targets = take(t[4]);
      row.targets = targets.data();
      row.target_count = int(targets.size());
      row.target_top = nb::cast<int>(t[5]);
      if (row.target_count > row.count) throw nb::value_error("more targets than tokens");
    }
    plan.push_back(row);
  }
  std::vector<StepResult> results;
  std::exception_ptr failed;
  std::function<void()> fetch_masks = [&] {
    nb::gil_scoped_acquire acquire;
    try {
      for (auto& [row, mask] : late) {
        auto& words = masks.emplace_back(nb::cast<Array<uint32_t>>(mask()));
        plan[row].spec.mask = words.data();
        plan[row].spec.mask_words = int64_t(words.size());
      }
    } catch (...) {
      failed = std::current_exception();  // the other threads wait at a barrier: tell the caller afterwards
    }
  };
  {
    nb::gil_scoped_release release;
    results = decoder.step(plan, late.empty() ? std::function<void()>() : fetch_masks);
  }
  if (failed) std::rethrow_exception(failed);
  nb::list out;
  for (size_t i = 0; i < results.size(); i++) {
    const StepResult& r = results[i];
    nb::list scores;
    for (const Score& s : r.scores) scores.append(scored(s));
    out.append(nb::make_tuple(r.token, plan[i].top >= 0 && r.token >= 0 ? scored(r.chosen) : nb::none(), scores));
  }
  return out;
}

}  // namespace

NB_MODULE(_native, m) {
  m.attr("BLOCK") = BLOCK;
  m.def("probe_bandwidth", [](int threads) { return probe_bandwidth(threads, size_t(512) << 20, 5); },
        nb::call_guard<nb::gil_scoped_release>());
  m.def("probe_flops", [](int threads) { return probe_flops(threads, "", 3000000); },
        nb::call_guard<nb::gil_scoped_release>());
  m.def("instruction_sets", [] {
    nb::list names;
    for (const char* name : {"avx512", "avxvnni", "avx2", "neon", "portable"})
      if (choose_kernels(name)) names.append(name);
    return names;
  });
  nb::class_<Decoder>(m, "Decoder", nb::dynamic_attr())
      .def("__init__",
           [](Decoder* self, int layers, int dim, int ffn, int heads, int kv_heads, int head_dim, int vocab, float eps,
              Array<float> frequencies, int threads, int blocks, const std::string& isa, bool int8_cache) {
             Shape shape{layers, dim, ffn, heads, kv_heads, head_dim, vocab, eps,
                         std::vector<float>(frequencies.data(), frequencies.data() + frequencies.size())};
             new (self) Decoder(std::move(shape), threads, blocks, isa.c_str(), int8_cache);
           })
      .def("add",
           [](Decoder& self, const std::string& name, int format, int rows, int columns, Array<uint8_t> raw,
              nb::object scale) {
             std::vector<float> scales;
             if (!scale.is_none()) {
               auto values = nb::cast<Array<float>>(scale);
               scales.assign(values.data(), values.data() + values.size());
               if (int(scales.size()) != rows) throw nb::value_error("a scale is needed for each row");
             }
             nb::gil_scoped_release release;
             self.add(name, format, rows, columns, raw.data(), raw.size(), scales.empty() ? nullptr : scales.data());
           },
           nb::arg("name"), nb::arg("format"), nb::arg("rows"), nb::arg("columns"), nb::arg("raw"), nb::arg("scale").none())
      .def("finish", &Decoder::finish)
      .def("step", &step)
      .def_prop_ro("isa", &Decoder::isa);
}
