#include "session.hpp"

#include <algorithm>
#include <cassert>
#include <functional>
#include <iterator>
#include <numeric>
#include <unordered_map>

#include "machine.hpp"

namespace caan::detail {
namespace {

constexpr const char* CUDA = "CUDAExecutionProvider";
constexpr const char* TENSORRT = "TensorrtExecutionProvider";

/// Held by every session, so that it outlives them.
Ort::Env& environment() {
    static Ort::Env env = [] {
        Ort::Env made(ORT_LOGGING_LEVEL_ERROR, "caan");
        // Microsoft's builds send usage reports over the network. Only the environment variable
        // ORT_DISABLE_TELEMETRY=1, which the application must set, stops the first report.
        made.DisableTelemetryEvents();
        return made;
    }();
    return env;
}

std::string library_version() { return Ort::GetVersionString(); }

/// As ONNX Runtime's Python package prints an error.
std::string as_python(const Ort::Exception& error) {
    static const char* const names[] = {"OK",
                                        "FAIL",
                                        "INVALID_ARGUMENT",
                                        "NO_SUCHFILE",
                                        "NO_MODEL",
                                        "ENGINE_ERROR",
                                        "RUNTIME_EXCEPTION",
                                        "INVALID_PROTOBUF",
                                        "MODEL_LOADED",
                                        "NOT_IMPLEMENTED",
                                        "INVALID_GRAPH",
                                        "EP_FAIL"};
    const auto code = static_cast<std::size_t>(error.GetOrtErrorCode());
    const std::string name = code < std::size(names) ? names[code] : "UNKNOWN";
    return "[ONNXRuntimeError] : " + std::to_string(code) + " : " + name + " : " + error.what();
}

MissingError unusable(const Device& device, const std::string& why) {
    if (device.tensorrt) {
        return MissingError("the backend 'tensorrt' can't be used: " + why +
                            "; see caan doctor, or use backend 'onnxruntime'");
    }
    return MissingError("the device 'cuda' can't be used: " + why +
                        "; see caan doctor, install the extra gpu instead of cpu, or use device 'cpu'");
}

void check(OrtStatus* status) { Ort::ThrowOnError(status); }

/// Each fails if the provider's library or its dependencies can't be loaded.
void add_cuda(Ort::SessionOptions& options) {
    const OrtApi& api = Ort::GetApi();
    OrtCUDAProviderOptionsV2* made = nullptr;
    check(api.CreateCUDAProviderOptions(&made));
    const std::unique_ptr<OrtCUDAProviderOptionsV2, decltype(api.ReleaseCUDAProviderOptions)> cuda(
        made, api.ReleaseCUDAProviderOptions);
    // TF32 rounds float32 factors to 10 bits: the scores would differ from those checked at export. Memory grows only
    // by the requested size, to leave the GPU's memory to other programs.
    const char* keys[] = {"use_tf32", "arena_extend_strategy"};
    const char* values[] = {"0", "kSameAsRequested"};
    check(api.UpdateCUDAProviderOptions(cuda.get(), keys, values, 2));
    options.AppendExecutionProvider_CUDA_V2(*cuda);
}

void add_tensorrt(Ort::SessionOptions& options) {
    const OrtApi& api = Ort::GetApi();
    OrtTensorRTProviderOptionsV2* made = nullptr;
    check(api.CreateTensorRTProviderOptions(&made));
    const std::unique_ptr<OrtTensorRTProviderOptionsV2, decltype(api.ReleaseTensorRTProviderOptions)> tensorrt(
        made, api.ReleaseTensorRTProviderOptions);
    options.AppendExecutionProvider_TensorRT_V2(*tensorrt);
}

Ort::SessionOptions options_of(int threads, Calls calls = Calls::many) {
    Ort::SessionOptions options;
    if (calls == Calls::few) {
        // An arena would keep the largest call's memory, several times the encoded states. And most of the time to open
        // a large graph goes into optimisations that don't speed up such calls.
        options.DisableCpuMemArena();
        options.SetGraphOptimizationLevel(ORT_ENABLE_BASIC);
    }
    options.SetIntraOpNumThreads(threads);
    options.SetLogSeverityLevel(3); // errors are thrown, and need not be logged too
    // Spinning threads would take cores from other sessions and from the application: opening a bundle would take twice
    // as long.
    options.AddConfigEntry("session.intra_op.allow_spinning", "0");
    // Without VNNI, INT8 products would be summed in 16 bits, which saturate.
    options.AddConfigEntry("session.x64quantprecision", "1");
    return options;
}

/// ONNX Runtime's own allocations for a name.
std::string text_of(const Ort::AllocatedStringPtr& name) { return name.get(); }

Tensor tensor_of(std::string name, const Ort::TypeInfo& type) {
    if (type.GetONNXType() != ONNX_TYPE_TENSOR) {
        return {std::move(name), ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED, {}};
    }
    const auto info = type.GetTensorTypeAndShapeInfo();
    return {std::move(name), info.GetElementType(), info.GetShape()};
}

Ort::Value value_of(const Array& array) {
    static const Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const std::size_t width = array.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64     ? 8
                              : array.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 ? 2
                                                                                    : 4;
    return Ort::Value::CreateTensor(memory, array.data, array.shape.elements() * width, array.shape.sizes(),
                                    array.shape.axes(), array.type);
}

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

} // namespace

Session::Session(const std::string& content, const std::string& path, const Device& device, int threads, Calls calls) {
    const bool on_gpu = device.name == "cuda";
    if (on_gpu && !has_provider(CUDA)) {
        throw unusable(device, "this onnxruntime was built without it");
    }
    if (device.tensorrt && !has_provider(TENSORRT)) {
        throw unusable(device, "this onnxruntime was built without it");
    }
    try {
        Ort::SessionOptions options = options_of(threads, calls);
        if (device.tensorrt) {
            add_tensorrt(options);
        }
        if (on_gpu) {
            add_cuda(options);
        }
        session_.reset(new Ort::Session(environment(), content.data(), content.size(), options));
        describe();
    } catch (const Ort::Exception& error) {
        if (on_gpu) {
            throw unusable(device, first_line(as_python(error)));
        }
        throw BundleError("ONNX Runtime " + library_version() + " can't load " + path + ": " + as_python(error));
    }
}

Session::Session(const EngineGraph& graph, int threads) {
    Ort::SessionOptions options = options_of(threads);
    try {
        if (graph.provider == TENSORRT) {
            add_tensorrt(options);
        } else {
            options.AppendExecutionProvider(graph.provider, std::unordered_map<std::string, std::string>{});
        }
        // The CPU can't run an engine anyway: don't try.
        options.AddConfigEntry("session.disable_cpu_ep_fallback", "1");
    } catch (const Ort::Exception& error) {
        throw missing_provider(graph, first_line(as_python(error)));
    }
    try {
        session_.reset(new Ort::Session(environment(), graph.path.c_str(), options));
        describe();
    } catch (const Ort::Exception& error) {
        throw BundleError(graph.where + " can't be used: " + first_line(as_python(error)) +
                          "; build it again: " + graph.rebuild);
    }
}

void DestroySession::operator()(Ort::Session* session) const {
    // A forked copy would wait for threads that this process lacks: it is leaked, and ends with the process.
    if (process == this_process()) {
        delete session;
    }
}

void Session::describe() {
    const Ort::AllocatorWithDefaultOptions allocator;
    for (std::size_t i = 0; i < session_->GetInputCount(); ++i) {
        const auto name = session_->GetInputNameAllocated(i, allocator);
        inputs_.push_back(tensor_of(text_of(name), session_->GetInputTypeInfo(i)));
    }
    for (std::size_t i = 0; i < session_->GetOutputCount(); ++i) {
        const auto name = session_->GetOutputNameAllocated(i, allocator);
        outputs_.push_back(tensor_of(text_of(name), session_->GetOutputTypeInfo(i)));
    }
}

void Session::run(std::initializer_list<Array> inputs, const Array& output) const {
    std::array<const char*, 4> names{};
    std::array<Ort::Value, 4> values{Ort::Value{nullptr}, Ort::Value{nullptr}, Ort::Value{nullptr},
                                     Ort::Value{nullptr}};
    assert(inputs.size() <= names.size());
    if (session_.get_deleter().process != this_process()) {
        throw Error("this process was forked from the one that opened the bundle; open it again here");
    }
    try {
        std::size_t count = 0;
        for (const Array& input : inputs) {
            names[count] = input.name;
            values[count++] = value_of(input);
        }
        Ort::Value result = value_of(output);
        session_->Run(Ort::RunOptions{nullptr}, names.data(), values.data(), count, &output.name, &result, 1);
    } catch (const Ort::Exception& error) {
        throw Error("ONNX Runtime " + library_version() + " failed: " + as_python(error));
    }
}

Shape::Shape(std::initializer_list<std::int64_t> sizes) : axes_(sizes.size()) {
    assert(sizes.size() <= sizes_.size());
    std::copy(sizes.begin(), sizes.end(), sizes_.begin());
}

std::size_t Shape::elements() const noexcept {
    return static_cast<std::size_t>(
        std::accumulate(sizes_.begin(), sizes_.begin() + axes_, std::int64_t{1}, std::multiplies<>()));
}

MissingError missing_provider(const EngineGraph& graph, const std::string& why) {
    return MissingError(graph.where + " needs ONNX Runtime's " + graph.provider + ": " + why +
                        "; see caan doctor, or use backend 'onnxruntime'");
}

bool has_provider(const std::string& name) {
    const std::vector<std::string> found = Ort::GetAvailableProviders();
    return std::find(found.begin(), found.end(), name) != found.end();
}

std::string choose_device(const std::string& named) {
    if (named != "auto") {
        return named;
    }
    // The GPU package lists its CUDA provider on any machine, and logs errors if there is no driver.
    return has_provider(CUDA) && has_nvidia_driver() ? "cuda" : "cpu";
}

} // namespace caan::detail
