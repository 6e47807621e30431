// Runs a bundle's graph (model.onnx, or OpenVINO's engine.xml) on preprocessed tensors: predict MODEL NAME=FILE ...
#include <openvino/openvino.hpp>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iostream>
#include <map>
#include <string>
#include <vector>

static size_t size_of(const std::string& file) {
    std::ifstream stream(file, std::ios::binary | std::ios::ate);
    if (!stream) throw std::runtime_error("cannot read " + file);
    return static_cast<size_t>(stream.tellg());
}

static void read_into(void* memory, size_t size, const std::string& file) {
    if (size_of(file) != size)
        throw std::runtime_error(file + " holds " + std::to_string(size_of(file)) + " bytes, the model takes " +
                                 std::to_string(size));
    std::ifstream(file, std::ios::binary).read(static_cast<char*>(memory), size);
}

int main(int argc, char** argv) try {
    if (argc < 3) throw std::runtime_error("usage: predict MODEL NAME=FILE ...");
    std::map<std::string, std::string> given;
    for (int i = 2; i < argc; ++i) {
        const std::string word = argv[i];
        const auto at = word.find('=');
        if (at == std::string::npos) throw std::runtime_error("not NAME=FILE: " + word);
        given[word.substr(0, at)] = word.substr(at + 1);
    }
    ov::Core core;
    auto model = core.read_model(argv[1]);
    // FP32 stays FP32, as in the Python runtime: without the hint a CPU with BF16 units computes in BF16.
    auto compiled = core.compile_model(model, "CPU", ov::hint::inference_precision(ov::element::f32),
                                       ov::inference_num_threads(1), ov::hint::enable_cpu_pinning(false));
    auto request = compiled.create_infer_request();

    // Modalities in the graph's order are the columns of `present`.
    std::vector<std::string> modalities;
    for (const auto& input : compiled.inputs())
        if (input.get_any_name() != "present") modalities.push_back(input.get_any_name());
    for (const auto& entry : given)
        if (std::find(modalities.begin(), modalities.end(), entry.first) == modalities.end())
            throw std::runtime_error("the model has no input " + entry.first);

    for (const auto& input : compiled.inputs()) {
        const std::string name = input.get_any_name();
        ov::Shape shape;
        for (const auto& axis : input.get_partial_shape()) shape.push_back(axis.is_dynamic() ? 1 : axis.get_length());
        // A text of a dynamic length is as long as its file says; missing, it is of one token.
        const size_t last = shape.size() - 1;
        if (last > 0 && input.get_partial_shape()[last].is_dynamic() && given.count(name))
            shape[last] = size_of(given[name]) / (ov::shape_size(shape) * input.get_element_type().size());
        ov::Tensor tensor(input.get_element_type(), shape);
        if (name == "present") {
            for (size_t k = 0; k < modalities.size(); ++k)
                tensor.data<ov::fundamental_type_for<ov::element::boolean>>()[k] = given.count(modalities[k]) != 0;
        } else if (given.count(name)) {
            read_into(tensor.data(), tensor.get_byte_size(), given[name]);
        } else {
            std::memset(tensor.data(), 0, tensor.get_byte_size());
        }
        request.set_tensor(name, tensor);
    }
    request.infer();
    const auto output = request.get_output_tensor(0);
    std::cout.precision(9);
    for (size_t i = 0; i < output.get_size(); ++i) std::cout << output.data<float>()[i] << "\n";
    return 0;
} catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
}
