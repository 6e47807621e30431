// The same with TensorRT (10 or newer): predict_tensorrt BUNDLE/tensorrt/engine.plan NAME=FILE ...
// g++ -std=c++17 -O2 predict_tensorrt.cpp -o predict_tensorrt -I/usr/local/cuda/include -L/usr/local/cuda/lib64 -lnvinfer -lcudart
#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

struct Logger : nvinfer1::ILogger {
    void log(Severity severity, const char* message) noexcept override {
        if (severity <= Severity::kERROR) std::cerr << message << "\n";
    }
};

static std::vector<char> read_file(const std::string& file) {
    std::ifstream stream(file, std::ios::binary);
    if (!stream) throw std::runtime_error("cannot read " + file);
    return {std::istreambuf_iterator<char>(stream), {}};
}

static void check(cudaError_t code) {
    if (code != cudaSuccess) throw std::runtime_error(cudaGetErrorString(code));
}

int main(int argc, char** argv) try {
    if (argc < 3) throw std::runtime_error("usage: predict_tensorrt ENGINE NAME=FILE ...");
    std::map<std::string, std::string> given;
    for (int i = 2; i < argc; ++i) {
        const std::string word = argv[i];
        const auto at = word.find('=');
        if (at == std::string::npos) throw std::runtime_error("not NAME=FILE: " + word);
        given[word.substr(0, at)] = word.substr(at + 1);
    }
    Logger logger;
    const auto plan = read_file(argv[1]);
    std::unique_ptr<nvinfer1::IRuntime> runtime(nvinfer1::createInferRuntime(logger));
    std::unique_ptr<nvinfer1::ICudaEngine> engine(runtime->deserializeCudaEngine(plan.data(), plan.size()));
    if (!engine) throw std::runtime_error("the engine does not load here: mmedge export --rebuild BUNDLE");
    std::unique_ptr<nvinfer1::IExecutionContext> context(engine->createExecutionContext());
    cudaStream_t stream;
    check(cudaStreamCreate(&stream));

    std::vector<std::string> modalities;
    std::string output;
    for (int i = 0; i < engine->getNbIOTensors(); ++i) {
        const std::string name = engine->getIOTensorName(i);
        if (engine->getTensorIOMode(name.c_str()) == nvinfer1::TensorIOMode::kOUTPUT) output = name;
        else if (name != "present") modalities.push_back(name);
    }
    for (const auto& entry : given)
        if (std::find(modalities.begin(), modalities.end(), entry.first) == modalities.end())
            throw std::runtime_error("the engine has no input " + entry.first);
    std::vector<void*> memory;
    const auto set = [&](const std::string& name, const std::vector<char>& host) {
        void* device = nullptr;
        check(cudaMalloc(&device, host.size()));
        check(cudaMemcpyAsync(device, host.data(), host.size(), cudaMemcpyHostToDevice, stream));
        context->setTensorAddress(name.c_str(), device);
        memory.push_back(device);
    };
    std::vector<std::vector<char>> hosts;  // kept until the copies are done
    hosts.reserve(modalities.size() + 1);
    for (const auto& name : modalities) {
        auto dims = engine->getTensorShape(name.c_str());
        dims.d[0] = 1;
        if (!context->setInputShape(name.c_str(), dims)) throw std::runtime_error(name + " does not take a batch of 1");
        // float32, and int64 for the ids of a text
        size_t size = engine->getTensorDataType(name.c_str()) == nvinfer1::DataType::kINT64 ? 8 : 4;
        for (int k = 0; k < dims.nbDims; ++k) size *= dims.d[k];
        hosts.push_back(given.count(name) ? read_file(given[name]) : std::vector<char>(size, 0));
        if (hosts.back().size() != size) throw std::runtime_error(given[name] + " is not of the model's size");
        set(name, hosts.back());
    }
    hosts.emplace_back();
    for (const auto& name : modalities) hosts.back().push_back(given.count(name) ? 1 : 0);
    context->setInputShape("present", nvinfer1::Dims2{1, static_cast<int64_t>(modalities.size())});
    set("present", hosts.back());

    const auto shape = context->getTensorShape(output.c_str());
    size_t count = 1;
    for (int k = 0; k < shape.nbDims; ++k) count *= shape.d[k];
    std::vector<float> answer(count);
    void* device = nullptr;
    check(cudaMalloc(&device, count * sizeof(float)));
    context->setTensorAddress(output.c_str(), device);
    memory.push_back(device);
    if (!context->enqueueV3(stream)) throw std::runtime_error("TensorRT did not run the engine");
    check(cudaMemcpyAsync(answer.data(), device, count * sizeof(float), cudaMemcpyDeviceToHost, stream));
    check(cudaStreamSynchronize(stream));
    for (float value : answer) std::cout << value << "\n";
    for (void* block : memory) cudaFree(block);
    cudaStreamDestroy(stream);
    return 0;
} catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
}
