#include "graph_check.hpp"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <set>
#include <stdexcept>
#include <utility>
#include <vector>

#include "protobuf.hpp"
#include "text.hpp"

namespace caan::detail {
namespace {

// Field numbers of onnx.proto.
constexpr std::uint64_t MODEL_GRAPH = 7, MODEL_TRAINING = 20, MODEL_FUNCTIONS = 25;
constexpr std::uint64_t GRAPH_NODE = 1, GRAPH_INITIALIZER = 5, GRAPH_INPUT = 11, GRAPH_OUTPUT = 12, GRAPH_SPARSE = 15;
constexpr std::uint64_t NODE_NAME = 3, NODE_TYPE = 4, NODE_ATTRIBUTE = 5, NODE_DOMAIN = 7;
constexpr std::uint64_t ATTRIBUTE_TENSORS[] = {5, 10}, ATTRIBUTE_GRAPHS[] = {6, 11}, ATTRIBUTE_SPARSE[] = {22, 23};
constexpr std::uint64_t TENSOR_EXTERNAL = 13, TENSOR_LOCATION = 14;

/// A feature that no exported graph has, as text.
class Foreign : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

using Axes = std::vector<std::optional<std::uint64_t>>; // none: a dynamic axis

/// An input or output of a graph.
struct End {
    std::string dtype;
    std::optional<Axes> shape; // none if the graph does not give it

    std::string str() const {
        if (!shape) {
            return dtype + " of any shape";
        }
        std::string sizes;
        for (const auto& size : *shape) {
            sizes += (sizes.empty() ? "" : ", ") + (size ? std::to_string(*size) : "?");
        }
        return dtype + " (" + sizes + ")";
    }
};

using Ends = std::vector<std::pair<std::string, End>>;

const End* find(const Ends& ends, const std::string& name) {
    for (auto end = ends.rbegin(); end != ends.rend(); ++end) {
        if (end->first == name) {
            return &end->second;
        }
    }
    return nullptr;
}

std::string type_name(std::uint64_t number) {
    return number == 1    ? "float32"
           : number == 7  ? "int64"
           : number == 10 ? "float16"
                          : "of ONNX's type " + std::to_string(number);
}

std::pair<std::string, End> end_of(std::string_view content) {
    std::string spaces[3];
    const Fields info(content); // ValueInfoProto: name = 1, type = 2
    // TypeProto: tensor_type = 1; the other fields are other kinds of values
    const Fields kind(info.merged(2, spaces[0]));
    if (kind.numbers() != std::set<std::uint64_t>{1}) {
        return {info.text(1), {"not a tensor", {}}};
    }
    const Fields tensor(kind.merged(1, spaces[1])); // elem_type = 1, shape = 2
    const auto& types = tensor.integers(1);
    const std::string dtype = type_name(types.empty() ? 0 : types.back());
    if (tensor.all(2).empty()) {
        return {info.text(1), {dtype, {}}};
    }
    const Fields axes(tensor.merged(2, spaces[2])); // dim = 1, each with dim_value = 1 or without
    Axes shape;
    for (const std::string_view axis : axes.all(1)) {
        const Fields dimension(axis);
        const auto& sizes = dimension.integers(1);
        shape.push_back(sizes.empty() ? std::nullopt : std::optional<std::uint64_t>(sizes.back()));
    }
    return {info.text(1), {dtype, shape}};
}

void check_tensor(std::string_view content) {
    const Fields tensor(content);
    const auto& locations = tensor.integers(TENSOR_LOCATION);
    const bool elsewhere = std::any_of(locations.begin(), locations.end(), [](auto place) { return place != 0; });
    if (!tensor.all(TENSOR_EXTERNAL).empty() || elsewhere) {
        throw Foreign("weights in another file");
    }
}

void check_node(std::string_view content) {
    const Fields node(content);
    const std::string domain = node.text(NODE_DOMAIN);
    const std::string where =
        "the node '" + shortened(node.text(NODE_NAME), 80) + "' (" + shortened(node.text(NODE_TYPE), 40) + ")";
    if (!domain.empty() && domain != "ai.onnx") {
        throw Foreign(where + " of '" + shortened(domain, 40) + "', whose operators no graph of caan's has");
    }
    for (const std::string_view part : node.all(NODE_ATTRIBUTE)) {
        const Fields attribute(part);
        const auto has = [&](std::uint64_t number) { return !attribute.all(number).empty(); };
        if (std::any_of(std::begin(ATTRIBUTE_GRAPHS), std::end(ATTRIBUTE_GRAPHS), has)) {
            throw Foreign(where + ", which runs a graph of its own; no graph of caan's has loops or branches");
        }
        if (std::any_of(std::begin(ATTRIBUTE_SPARSE), std::end(ATTRIBUTE_SPARSE), has)) {
            throw Foreign(where + " with sparse numbers, which no graph of caan's has");
        }
        for (const std::uint64_t number : ATTRIBUTE_TENSORS) {
            for (const std::string_view tensor : attribute.all(number)) {
                check_tensor(tensor);
            }
        }
    }
}

/// The inputs and outputs of a model. Throws Foreign and Malformed.
std::pair<Ends, Ends> ends_of(std::string_view content) {
    const Fields model(content);
    if (!model.all(MODEL_FUNCTIONS).empty()) {
        throw Foreign("functions, which no graph of caan's has");
    }
    if (!model.all(MODEL_TRAINING).empty()) {
        throw Foreign("a graph for training, which no graph of caan's has");
    }
    std::string space;
    const Fields graph(model.merged(MODEL_GRAPH, space));
    for (const std::string_view node : graph.all(GRAPH_NODE)) {
        check_node(node);
    }
    if (!graph.all(GRAPH_SPARSE).empty()) {
        throw Foreign("sparse weights, which no graph of caan's has");
    }
    for (const std::string_view tensor : graph.all(GRAPH_INITIALIZER)) {
        check_tensor(tensor);
    }
    std::pair<Ends, Ends> ends;
    for (const std::string_view input : graph.all(GRAPH_INPUT)) {
        ends.first.push_back(end_of(input));
    }
    for (const std::string_view output : graph.all(GRAPH_OUTPUT)) {
        ends.second.push_back(end_of(output));
    }
    if (ends.first.empty() || ends.second.empty()) {
        throw Malformed{};
    }
    return ends;
}

/// Whether these shapes differ only in their last size.
bool differs_in_columns(const std::optional<Axes>& found, const Axes& expected) {
    return found && found->size() == expected.size() &&
           std::equal(expected.begin(), expected.end() - 1, found->begin()) && found->back() && expected.back() &&
           found->back() != expected.back();
}

class Comparison {
public:
    Comparison(const std::string& folder, const std::string& name, const std::string& path)
        : folder_(folder), name_(name), path_(path) {}

    void compare(const char* what, const Ends& found, const Ends& expected) const {
        for (const auto& end : found) {
            if (find(expected, end.first) == nullptr) {
                throw refusal("it has the " + std::string(what) + " '" + shortened(end.first, 80) + "'");
            }
        }
        for (const auto& [tensor, wanted] : expected) {
            const End* end = find(found, tensor);
            if (end == nullptr) {
                throw refusal("it has no " + std::string(what) + " '" + tensor + "'");
            }
            // States are float32 or float16 in the graphs that encode and score.
            const bool is_right_type = end->dtype == wanted.dtype ||
                                       (wanted.dtype == STATES && (end->dtype == "float32" || end->dtype == "float16"));
            if (is_right_type && differs_in_columns(end->shape, *wanted.shape)) {
                throw BundleError(folder_ + "/manifest.json does not fit its graphs: " + tensor + " has " +
                                  std::to_string(*end->shape->back()) + " columns, the config says " +
                                  std::to_string(*wanted.shape->back()) + "; export the checkpoint again");
            }
            if (!is_right_type || end->shape != wanted.shape) {
                throw refusal(tensor + " is " + end->str() + ", not " + wanted.str());
            }
        }
    }

    static constexpr const char* STATES = "float32 or float16";

private:
    BundleError refusal(const std::string& why) const {
        return BundleError(path_ + " is not the " + name_ + " of a caan bundle: " + why +
                           "; export the checkpoint again");
    }

    const std::string &folder_, &name_, &path_;
};

/// A graph's required inputs and outputs.
std::pair<Ends, Ends> expected_of(const Sizes& sizes, const std::string& name) {
    const auto size = [](std::int64_t columns) { return std::optional<std::uint64_t>(columns); };
    const auto image_width = size(sizes.state_width(Kind::image));
    const auto text_width = size(sizes.state_width(Kind::text));
    const std::optional<std::uint64_t> any;
    const End images{Comparison::STATES, Axes{any, any, image_width}};
    const End texts{Comparison::STATES, Axes{any, any, text_width}};
    const End lengths{"int64", Axes{any}};
    if (name == EXPANDER) {
        return {{{"regions", {"float32", Axes{any, any, size(sizes.embed_dim)}}}},
                {{"image_states", {"float32", images.shape}}}};
    }
    if (name == "image_encoder") {
        return {{{"features", {"float32", Axes{any, any, size(sizes.region_dim)}}}}, {{"image_states", images}}};
    }
    if (name == "text_encoder") {
        return {{{"tokens", {"int64", Axes{any, any}}}, {"text_lengths", lengths}}, {{"text_states", texts}}};
    }
    return {{{"image_states", images}, {"image_lengths", lengths}, {"text_states", texts}, {"text_lengths", lengths}},
            {{"scores", {"float32", Axes{any, any}}}}};
}

} // namespace

void check_graph(const std::string& folder, const Sizes& sizes, const std::string& name, const std::string& path,
                 std::string_view content) {
    std::pair<Ends, Ends> found;
    try {
        found = ends_of(content);
    } catch (const Foreign& foreign) {
        throw BundleError(path + " holds " + foreign.what() + "; do not trust this bundle");
    } catch (const Malformed&) {
        throw BundleError("ONNX Runtime can't load " + path +
                          ": it is not an ONNX graph; copy the bundle again, or export the checkpoint again");
    }
    const auto expected = expected_of(sizes, name);
    const Comparison comparison(folder, name, path);
    comparison.compare("input", found.first, expected.first);
    comparison.compare("output", found.second, expected.second);
}

} // namespace caan::detail
